"""Checks the values of KafkaConsumer's options, because kafka-python checks few of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSettingError

#: kafka-python connects without TLS if it does not know the protocol, and without an offset if it does not know the
#: reset. Both are usually misspelt. "smallest" and "largest" are kafka-python's older names.
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "auto_offset_reset": ("earliest", "latest", "none", "smallest", "largest"),
    "isolation_level": ("read_uncommitted", "read_committed"),
    "security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
}


def check_option_values(options: Mapping[str, Any], setting: str) -> None:
    """Refuse a value that kafka-python would fail with, or would take for something else.

    Args:
        options: options of KafkaConsumer; all of them exist.
        setting: the name of the setting that holds the options, for the error.

    Raises:
        InvalidSettingError: naming the option, its value, and what is allowed.
    """
    # Imported here: kafka takes longer to import than the rest of this package.
    from kafka import KafkaConsumer

    for name, value in options.items():
        rule = _rule_broken_by(name, value, KafkaConsumer.DEFAULT_CONFIG[name])
        if rule is not None:
            raise InvalidSettingError(f"{setting}[{name!r}]", value, rule)


def _rule_broken_by(name: str, value: object, default: object) -> str | None:
    if name in _CHOICES:
        choices = _CHOICES[name]
        return None if isinstance(value, str) and value in choices else f"it is one of {', '.join(map(repr, choices))}"
    if name == "api_version":
        parts = value.split(".") if isinstance(value, str) else value
        is_version = isinstance(parts, tuple | list) and all(str(part).isdecimal() for part in parts)
        return None if value is None or is_version else "it is a text or tuple of numbers, such as (2, 8)"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "it is True or False (true or false on the command line)"
    if isinstance(default, int | float):
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        return None if is_number else "it is a number from 0"
    return None
