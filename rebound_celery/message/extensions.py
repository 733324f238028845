"""msgpack extensions for the values that msgpack cannot hold, and the check of what a stored message may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.msgpack import Ext

from ..errors import WireFormatError

#: The deepest nesting of lists and mappings in a field that a later version or a caller adds.
MAX_DEPTH = 64

#: Extension types: a text with lone surrogates, which UTF-8 cannot hold; a number of more than 64 bits.
_TEXT = 1
_NUMBER = 2


def read_extension(code: int, data: memoryview) -> Any:
    """Return the value of an extension. An unknown extension stays an `Ext`."""
    if code == _TEXT:
        return bytes(data).decode("utf-8", "surrogatepass")
    if code == _NUMBER and len(data) <= 1000:
        return int(bytes(data))
    return Ext(code, bytes(data))


def storable(value: Any) -> Any:
    """Return a copy of `value` in plain types. Extensions replace the values that msgpack cannot hold."""
    if isinstance(value, str):
        return str.__str__(value) if _is_utf8(value) else Ext(_TEXT, str.encode(value, "utf-8", "surrogatepass"))
    if isinstance(value, bool | None):
        return value
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -(2**63) <= number < 2**64 else Ext(_NUMBER, b"%d" % number)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, Mapping):
        return {storable(name): storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return [storable(item) for item in msgspec.structs.astuple(value)]
    return value


def _is_utf8(text: str) -> bool:
    try:
        str.encode(text)
    except UnicodeEncodeError:
        return False
    return True


def check(value: Any) -> None:
    """Raise WireFormatError if `encode` could not write `value` again: its nesting is too deep or a key is not text."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if not all(isinstance(name, str) and _is_utf8(name) for name in item):
                    raise WireFormatError("a stored message is damaged: the key of a mapping is not text")
                below += item.values()
            elif isinstance(item, list):
                below += item
        if not below:
            return
        level = below
    raise WireFormatError("a stored message is damaged: it is nested too deeply")
