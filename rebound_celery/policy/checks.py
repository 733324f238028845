"""Checks of the values in a policy."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import InvalidSettingError
from ..shown import shown_url

#: No delay is longer than this. Doubling 3600 s a hundred times would leave the range of dates.
MAX_DELAY_S = 10 * 365 * 86_400

#: Kafka's own rule: org.apache.kafka.common.internals.Topic.
_TOPIC_FORM = re.compile(r"[a-zA-Z0-9._-]{1,249}")
TOPIC_RULE = "a Kafka topic has 1 to 249 of the characters a-z A-Z 0-9 . _ - and is not '.' or '..'"


def check_topic(topic: object, field: str = "topic") -> str:
    """Return `topic` if Kafka allows it as a topic name, or raise InvalidSettingError naming `field`."""
    if not isinstance(topic, str) or topic in (".", "..") or not _TOPIC_FORM.fullmatch(topic):
        raise InvalidSettingError(field, shown_url(topic), TOPIC_RULE)
    return topic


def has_topic_form(text: str) -> bool:
    """Whether a text has only characters that Kafka allows in the name of a topic, and no more than it allows."""
    return _TOPIC_FORM.fullmatch(text) is not None


def check_count(field: str, value: object, most: int) -> None:
    """Raise InvalidSettingError if `value` is not a whole number from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise InvalidSettingError(field, value, f"it must be a whole number from 0 to {most}")


def check_seconds(field: str, value: object, least: float, most: float) -> None:
    """Raise InvalidSettingError if `value` is not a number of seconds from `least` to `most`."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        raise InvalidSettingError(field, value, f"it must be a number of seconds from {least:g} to {most}")


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    """Raise InvalidSettingError if `value` is not one of the texts in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidSettingError(field, value, f"it is one of {', '.join(map(repr, choices))}")


def is_list(value: object) -> bool:
    """Whether a value is a list in the sense of a setting: a text is not."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def compact(seconds: float) -> float:
    """Return the number in its shortest stored form: a whole number takes fewer bytes than a fraction."""
    return int(seconds) if seconds == int(seconds) else seconds
