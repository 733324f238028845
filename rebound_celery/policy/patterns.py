"""Checks the patterns of topics and destinations in the policies of an app."""

from __future__ import annotations

import re

from .checks import TOPIC_RULE, has_topic_form

#: What stands in a pattern for characters of a name. Like `fnmatch`, a bracket that is not closed is a character.
_SIGN = re.compile(r"\*|\?|\[!?\]?[^\]]*\]")

_SCHEMES = ("kafka://", "http://", "https://")
_SCHEME_RULE = "it fits no destination: these begin with kafka://, http:// or https://"
_BROKERS_RULE = "it fits no destination: these are kafka://topic, without brokers"
_PATH_RULE = "it fits no URL, because each has a path: add /* for all URLs of this host"


def topic_fault(pattern: str) -> str | None:
    """Return why no topic fits a pattern, or None if one may."""
    literal = _SIGN.sub("", pattern)
    return None if not literal or has_topic_form(literal) else f"it fits no topic: {TOPIC_RULE}"


def destination_fault(pattern: str) -> str | None:
    """Return why no destination fits a pattern, or None if one may.

    It finds the usual mistakes, and not every pattern that fits nothing.
    """
    begin = _SIGN.split(pattern, maxsplit=1)[0]
    has_sign = begin != pattern
    if not has_sign and not begin.startswith(_SCHEMES):
        return _SCHEME_RULE
    if not any(begin.startswith(scheme) or scheme.startswith(begin) for scheme in _SCHEMES):
        return _SCHEME_RULE
    scheme, _, rest = pattern.partition("://")
    if scheme == "kafka":
        return _BROKERS_RULE if "/" in rest else topic_fault(rest)
    return _PATH_RULE if not has_sign and "/" not in rest else None
