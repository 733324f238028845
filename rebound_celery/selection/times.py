"""Reads durations and points in time as people write them, and writes durations for people."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from ..errors import InvalidSettingError

#: Units and their seconds, the longest first.
_UNITS = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "min": 60.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(w|d|h|min|ms|m|s)")
_DURATION = re.compile(rf"(?:{_PART.pattern}\s*)+")

#: The longest duration, in seconds: a hundred years.
_LONGEST_S = 100 * 365 * 86_400
#: The last millisecond of the year 9999, which is the last that a date can name.
_LAST_MS = 253_402_300_799_999

_DURATION_RULE = "it is a number of seconds from 0, or a duration such as 30s, 10min, 2h, 1d or 1h30min"
#: A smaller number is a time in seconds: in milliseconds it would be before March 1973.
_LEAST_MS = 100_000_000_000

_SECONDS_RULE = "it is Unix milliseconds, and this looks like seconds: put three zeros behind it"

_TIME_RULE = (
    "it is a date such as 2030-01-31T18:00:00Z (without a zone it is UTC), Unix milliseconds, now, "
    "or a time from now such as +10min or -2h"
)


def read_duration_s(field: str, value: object) -> float:
    """Return a duration in seconds, from a number of seconds or a text such as `10min`.

    Raises:
        InvalidSettingError: naming `field`, if it is anything else or longer than a hundred years.
    """
    seconds = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and len(value) <= 50:
        text = value.strip().lower()
        if _DURATION.fullmatch(text):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        elif re.fullmatch(r"[0-9]+(\.[0-9]+)?", text, re.ASCII):
            seconds = float(text)
    if not 0 <= seconds <= _LONGEST_S:
        raise InvalidSettingError(field, value, _DURATION_RULE)
    return seconds


def read_time_ms(field: str, value: object, now_ms: int) -> int:
    """Return a point in time in Unix milliseconds, from Unix milliseconds, a date, `now`, `+10min` or `-2h`.

    A date without a zone is UTC.

    Raises:
        InvalidSettingError: naming `field`, if it is anything else, or not between 1970 and 9999. A text of
            digits that is in seconds is refused too; see `refuse_seconds`.
    """
    found: int | None = None
    if isinstance(value, datetime):
        found = _ms_of(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and len(value) <= 50:
        text = value.strip()
        if text.lower() == "now":
            found = now_ms
        elif text[:1] in ("+", "-"):
            found = now_ms + (-1 if text[0] == "-" else 1) * round(1000 * read_duration_s(field, text[1:]))
            found = max(0, found)
        elif re.fullmatch("[0-9]{9,15}", text, re.ASCII):
            found = int(text)
            refuse_seconds(field, found)
        else:
            try:
                found = _ms_of(datetime.fromisoformat(text))
            except ValueError:
                found = None
    if found is None or not 0 <= found <= _LAST_MS:
        raise InvalidSettingError(field, value, _TIME_RULE)
    return found


def refuse_seconds(field: str, number: int) -> None:
    """Refuse a number of Unix milliseconds that would be a time before March 1973: it is in seconds. 0 is allowed.

    Raises:
        InvalidSettingError: naming `field`, and the number.
    """
    if 0 < number < _LEAST_MS:
        raise InvalidSettingError(field, number, _SECONDS_RULE)


def _ms_of(moment: datetime) -> int | None:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    try:
        return round(moment.timestamp() * 1000)
    except (OverflowError, ValueError):
        return None


def duration_text(seconds: float) -> str:
    """Return a duration from 0 in its two largest units, rounded down, such as `2h 5min`; below a minute `12s`."""
    left = int(seconds)
    parts = []
    for unit in ("d", "h", "min", "s"):
        count, left = divmod(left, int(_UNITS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    # Seconds tell nothing beside hours.
    return " ".join(parts[:2]) or "0s"
