"""Reads the patterns of topics and destinations in the policies of an app and in filters."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase, translate
from typing import NamedTuple

from ..urls.patterns import SIGNS, check_comparable, read_url_pattern
from .checks import TOPIC_RULE, has_topic_form

_KAFKA = "kafka"
_SCHEMES = (_KAFKA, "http", "https")
_SCHEME_RULE = "it fits no destination: these begin with kafka://, http:// or https://"
_BROKERS_RULE = "it fits no destination: these are kafka://topic, without brokers"


class Pattern(NamedTuple):
    """A pattern of names as it is compared with them.

    Attributes:
        name: the only name that it fits; None if it may fit several.
        regex: what matches the names that it fits.
    """

    name: str | None
    regex: re.Pattern[str]


def topic_fault(pattern: str) -> str | None:
    """Return why no topic fits a pattern, or None if one may."""
    literal = SIGNS.sub("", pattern)
    return None if not literal or has_topic_form(literal) else f"it fits no topic: {TOPIC_RULE}"


def topic_pattern(pattern: str) -> Pattern:
    """Return a pattern of topics as it is compared with them.

    Raises:
        ValueError: saying why no topic fits it.
    """
    if why := topic_fault(pattern):
        raise ValueError(why)
    return _pattern(pattern)


def destination_fault(pattern: str) -> str | None:
    """Return why no destination fits a pattern, or None if one may."""
    try:
        destination_pattern(pattern)
    except ValueError as error:
        return str(error)
    return None


def destination_pattern(pattern: str) -> Pattern:
    """Return a pattern of destinations as it is compared with their names; see `policy_names`.

    Raises:
        ValueError: saying why no destination fits it, or what to write.
    """
    begin = SIGNS.split(pattern, maxsplit=1)[0]
    has_sign, begin = begin != pattern, begin.lower()
    starts = [f"{scheme}://" for scheme in _SCHEMES]
    if not any(begin.startswith(start) or (has_sign and start.startswith(begin)) for start in starts):
        raise ValueError(_SCHEME_RULE)
    scheme, separator, rest = pattern.partition("://")
    if not separator or "/" in scheme:
        # Its sign may stand for more than a scheme or a host.
        check_comparable(pattern, SIGNS)
        return _pattern(pattern)
    forms, fault = [], _SCHEME_RULE
    for name in _SCHEMES:
        # The scheme of a URL may have capitals.
        if fnmatchcase(name, scheme if name == _KAFKA else scheme.lower()):
            try:
                forms.append(_with_scheme(name, rest))
            except ValueError as error:
                fault = str(error)
    if not forms:
        raise ValueError(fault)
    return forms[0] if len(forms) == 1 else Pattern(None, re.compile("|".join(form.regex.pattern for form in forms)))


def _with_scheme(scheme: str, rest: str) -> Pattern:
    """Return a pattern of destinations with this scheme, which has no sign."""
    if scheme != _KAFKA:
        read = read_url_pattern(f"{scheme}://{rest}", SIGNS)
        return Pattern(read.url, read.regex)
    if why := _BROKERS_RULE if "/" in rest else topic_fault(rest):
        raise ValueError(why)
    return _pattern(f"{scheme}://{rest}")


def _pattern(pattern: str) -> Pattern:
    return Pattern(None if SIGNS.search(pattern) else pattern, re.compile(translate(pattern)))
