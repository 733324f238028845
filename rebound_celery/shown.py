"""Shows values in errors, logs and `repr`: URLs without their user, password, query and fragment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import ParseResult, SplitResult

#: How many characters of a text an error shows.
_LONGEST = 300

#: How deep in containers values are looked for.
_DEPTH = 4

#: Query and fragment.
_AFTER_PATH = re.compile(r"(?<=[?#]).*", re.DOTALL)

#: A URL somewhere in a text, up to white space or a quote.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*")


class _Text:
    """A text that is its own `repr`."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def shown_url(value: object) -> object:
    """Return a value that should be a URL, or a mapping with one, as an error may show it.

    All of a text is taken for a URL, also where it has no scheme. Of other types only the type is shown.
    """
    if isinstance(value, str):
        text = without_secrets(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
    if isinstance(value, bytes | bytearray):
        return without_secrets(value.decode("latin-1"))[:_LONGEST].encode("latin-1")
    if isinstance(value, Mapping):
        return {shown_url(name): shown_url(item) for name, item in value.items()}
    return value if value is None or isinstance(value, int | float) else type(value)


def shown(value: object) -> object:
    """Return any value as an error may show it: what has no URL in it as it is."""
    return _shown(value, _DEPTH)


def _shown(value: object, depth: int) -> object:
    if isinstance(value, str):
        return without_secrets(value) if "://" in value else value
    if isinstance(value, bytes | bytearray):
        return without_secrets(value.decode("latin-1")).encode("latin-1") if b"://" in value else value
    if isinstance(value, SplitResult | ParseResult):
        return shown_url(value.geturl())
    if depth and isinstance(value, Mapping):
        return {_shown(name, depth - 1): _shown(item, depth - 1) for name, item in value.items()}
    # A subclass, such as a named tuple, may be made differently.
    for kind in (list, tuple, set, frozenset):
        if depth and type(value) is kind:
            return kind(_shown(item, depth - 1) for item in value)
    text = repr(value)
    return _Text(_URL.sub(lambda found: without_secrets(found[0]), text)) if "://" in text else value


def without_secrets(text: str) -> str:
    """Hide what may be secret in a text that should be a URL. By mistake a password can hold any character."""
    scheme, separator, rest = text.partition("://") if "://" in text else ("", "", text)
    hidden, at, place = rest.rpartition("@")
    if "@" in scheme or _AFTER_PATH.search(hidden):
        return f"{'' if '@' in scheme else scheme}{separator}***"
    return f"{scheme}{separator}{'***@' if at else ''}{_AFTER_PATH.sub('***', place)}"
