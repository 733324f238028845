"""Checks of the values in a consumer's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSettingError
from .option_values import check_option_values

#: Options of kafka-python's KafkaConsumer that the user may not set, each with the reason for the error's text.
REFUSED_OPTIONS = {
    "bootstrap_servers": "it is the field `brokers`",
    "group_id": "it is the field `group`",
    "enable_auto_commit": "the consumer commits a record when it is handled or its retry is stored, never by time",
    "auto_commit_interval_ms": "the consumer commits by itself; see the field `commit_interval`",
    "allow_auto_create_topics": "it is the field `allow_auto_create`",
    "default_offset_commit_callback": "the consumer commits by itself",
    "key_deserializer": "a retry keeps the key byte for byte; decode it in the handler",
    "value_deserializer": "a retry keeps the value byte for byte; decode it in the handler",
    "consumer_timeout_ms": "the consumer runs until it is stopped",
    "kafka_client": "the consumer gives its own",
}

#: The longest time that a consumer can be told, in seconds: a year.
_LONGEST_S = 365 * 86_400

_COUNT_RULE = "it is a whole number from {} up"


def check_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidSettingError(name, value, _COUNT_RULE.format(least))


def check_seconds(name: str, value: object, *, zero: bool) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _LONGEST_S or (value == 0 and not zero):  # type: ignore[operator]
        least = "0 or more" if zero else "above 0"
        raise InvalidSettingError(name, value, f"it is a number of seconds, {least}, at most {_LONGEST_S:,}")


def check_options(options: object) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise InvalidSettingError("kafka_options", options, "it is a mapping of kafka-python's option names to values")
    for name, reason in REFUSED_OPTIONS.items():
        if name in options:
            raise InvalidSettingError(f"kafka_options[{name!r}]", options[name], reason)
    if options:
        # Imported only here: kafka takes longer to import than the rest of this package.
        from kafka import KafkaConsumer

        for name in options:
            if name not in KafkaConsumer.DEFAULT_CONFIG:
                raise InvalidSettingError(
                    f"kafka_options[{name!r}]", options[name], "kafka-python's KafkaConsumer has no such option"
                )
        check_option_values(options, "kafka_options")
    return dict(options)
