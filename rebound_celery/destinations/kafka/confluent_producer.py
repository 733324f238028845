"""Makes confluent-kafka's Producer, and names the option that librdkafka refuses."""

from __future__ import annotations

import logging
import re
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from .options import invalid_option

#: Errors of Producer's constructor that its options do not cause: the system has no more threads, for example, or there
#: is no token for OAUTHBEARER now.
_NOT_OF_OPTIONS = (KafkaError._CRIT_SYS_RESOURCE, KafkaError.SASL_AUTHENTICATION_FAILED)  # noqa: SLF001 # of confluent-kafka

_PROPERTY = re.compile(r'property "([^"]+)"|producer: ([a-z.]+) failed')


def make_producer(defaults: dict[str, Any], options: dict[str, Any], fixed: dict[str, Any]) -> Any:
    """Return a Producer. `options` win over `defaults`, and `fixed` over both.

    Raises:
        InvalidSettingError: naming the option of `options` that librdkafka does not have, or whose value it cannot use.
    """
    try:
        return Producer({**defaults, **options, **fixed})
    except (KafkaException, TypeError, ValueError) as error:
        if isinstance(error, KafkaException) and error.args[0].code() in _NOT_OF_OPTIONS:
            raise
        text = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        found = _PROPERTY.search(text)
        named = (found[1] or found[2]) if found else ""
        # librdkafka may name an alias of the option.
        culprits = [name for name in options if name == named or _is_refused(name, options[name])]
        name = culprits[0] if culprits else named or ", ".join(options)
        raise invalid_option(name, options.get(name), f"librdkafka: {text}") from error


def _is_refused(name: str, value: Any) -> bool:
    try:
        Producer({name: value, "logger": quiet_logger()})
    except Exception:  # noqa: BLE001 - any error means that librdkafka refuses the option
        return True
    return False


def quiet_logger() -> logging.Logger:
    """Return the logger for librdkafka, turned off unless its level was set; see `kafka_python._quiet_logging`."""
    log = logging.getLogger("confluent_kafka")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)
    return log
