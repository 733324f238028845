"""Reads the patterns of topics and destinations in the policies of an app and in filters."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase, translate
from typing import NamedTuple

from ..urls.patterns import SIGNS, check_comparable, check_fits, read_url_pattern
from .checks import TOPIC_RULE, has_topic_form

_SCHEMES = ("kafka://", "http://", "https://")
_SCHEME_RULE = "it fits no destination: these begin with kafka://, http:// or https://"
_BROKERS_RULE = "it fits no destination: these are kafka://topic, without brokers"
_PATH_RULE = "it fits no URL, because each has a path: add /* for all URLs of this host"


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
    if not any(begin.startswith(scheme) or (has_sign and scheme.startswith(begin)) for scheme in _SCHEMES):
        raise ValueError(_SCHEME_RULE)
    scheme, separator, rest = pattern.partition("://")
    if scheme == "kafka":
        if why := _BROKERS_RULE if "/" in rest else topic_fault(rest):
            raise ValueError(why)
        return _pattern(pattern)
    if not separator or (fnmatchcase("kafka", scheme) and "/" not in rest):
        # It may be for topics too, or a sign at its beginning may stand for more than the scheme.
        check_comparable(pattern, SIGNS)
        return _pattern(pattern)
    read = read_url_pattern(pattern, SIGNS)
    if not read.path and "*" not in read.text:
        raise ValueError(_PATH_RULE)
    regex = re.compile("|".join(map(translate, read.for_fnmatch)))
    check_fits(pattern, SIGNS, regex.match)
    return Pattern(None if read.has_signs else read.text, regex)


def _pattern(pattern: str) -> Pattern:
    return Pattern(None if SIGNS.search(pattern) else pattern, re.compile(translate(pattern)))
