"""Which URLs have which options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from ..errors import InvalidSettingError
from ..urls.patterns import read_url_pattern
from .options import HttpOptions

#: The options of all destinations that have none of their own, and what an option is that a destination leaves out.
EVERY = "*"

_PATTERN_RULE = "a destination is * or http(s)://host/path, without query; * stands for any part of a host or a path"


class HttpTable:
    """Which options each URL has.

    Args:
        destinations: from a pattern, such as `https://api.example.com/*`, to the options as they were given.

    Raises:
        InvalidSettingError: naming the pattern, the option, its value, and what is allowed.
    """

    def __init__(self, destinations: Mapping[str, HttpOptions | Mapping[str, Any]] | None = None) -> None:
        read = {pattern: _read_options(pattern, given) for pattern, given in (destinations or {}).items()}
        self._read = dict(read)
        self._usual = read.pop(EVERY, HttpOptions())
        self._rows = [(_regex(pattern), options.over(self._usual)) for pattern, options in read.items()]
        _check_twins(list(read), [regex for regex, _ in self._rows])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HttpTable) and list(self._read.items()) == list(other._read.items())

    def __hash__(self) -> int:
        return hash(tuple(self._read))

    def __bool__(self) -> bool:
        return bool(self._read)

    @property
    def all_options(self) -> list[HttpOptions]:
        """The options of each pattern, and of `*`."""
        return [*(options for _, options in self._rows), self._usual]

    def of(self, endpoint: str) -> HttpOptions:
        """The options of the first pattern that matches, in the order in which they were given.

        Args:
            endpoint: the URL in the form in which it is compared; see `HttpUrl.endpoint`.
        """
        return next((options for regex, options in self._rows if regex.match(endpoint)), self._usual)


def read_http_table(name: str, value: object) -> HttpTable:
    """Read the setting `rebound_http_destinations`.

    Raises:
        InvalidSettingError: for anything else.
    """
    if isinstance(value, HttpTable):
        return value
    if not isinstance(value, Mapping) or not all(isinstance(pattern, str) for pattern in value):
        raise InvalidSettingError(name, value, f"it is a mapping of destinations to options; {_PATTERN_RULE}")
    try:
        return HttpTable(value)
    except InvalidSettingError as error:
        raise InvalidSettingError(f"{name}{error.field}", error.value, error.allowed) from None


def _read_options(pattern: str, given: object) -> HttpOptions:
    place = f"[{_shown(pattern)!r}]"
    if isinstance(given, HttpOptions):
        return given
    if not isinstance(given, Mapping):
        raise InvalidSettingError(place, given, "give HttpOptions, or a mapping of its fields")
    names = [option.name for option in fields(HttpOptions)]
    for name in given:
        if name not in names:
            near = get_close_matches(str(name), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it is one of {', '.join(names)}"
            raise InvalidSettingError(f"{place}.{name}", "***", f"there is no such option{hint}")
    try:
        return HttpOptions(**given)
    except InvalidSettingError as error:
        raise InvalidSettingError(f"{place}.{error.field}", error.value, error.allowed) from None


def _regex(pattern: str) -> re.Pattern[str]:
    """What matches endpoints."""
    try:
        return read_url_pattern(pattern).regex
    except ValueError as error:
        raise _refusal(pattern, f"{error}; {_PATTERN_RULE}") from None


def _check_twins(patterns: Sequence[str], regexes: Sequence[re.Pattern[str]]) -> None:
    """Refuse the second of two patterns for the same URLs, which would never count."""
    first: dict[str, str] = {}
    for pattern, regex in zip(patterns, regexes, strict=True):
        if regex.pattern in first:
            raise _refusal(pattern, f"it stands for the same URLs as {first[regex.pattern]!r}: leave out one of them")
        first[regex.pattern] = pattern


def _refusal(pattern: str, allowed: str) -> InvalidSettingError:
    shown = _shown(pattern)
    return InvalidSettingError(f"[{shown!r}]", shown, allowed)


def _shown(pattern: str) -> str:
    return "***" if "@" in pattern else pattern
