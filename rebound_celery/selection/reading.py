"""Reads the fields of a filter from JSON, a query or the switches of a command."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import InvalidSettingError
from .times import read_duration_s, read_time_ms

#: What a key begins with that is given as base64, because it is no text.
BASE64 = "base64:"


def _text(field: str, value: object, _: int) -> str:
    if not isinstance(value, str):
        raise InvalidSettingError(field, value, "it is a text")
    return value


def _key(field: str, value: object, _: int) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise InvalidSettingError(field, value, f"it is a text, or {BASE64} and the base64 of the key's bytes")
    if not value.startswith(BASE64):
        return value.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(value[len(BASE64) :], validate=True)
    except ValueError:
        raise InvalidSettingError(field, value, f"what follows {BASE64} is base64") from None


def key_text(key: bytes) -> str:
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = BASE64
    return f"{BASE64}{base64.b64encode(key).decode()}" if text.startswith(BASE64) else text


def _number(field: str, value: object, _: int) -> int:
    if isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value, re.ASCII):
        return int(value)
    if type(value) is not int:
        raise InvalidSettingError(field, value, "it is a whole number from 1")
    return value


def _duration(field: str, value: object, _: int) -> float:
    return read_duration_s(field, value)


def _header(field: str, value: object, _: int) -> tuple[tuple[str, str | None], ...]:
    given = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(each, str) for each in given):
        raise InvalidSettingError(field, value, "it is name, name=pattern, or a list of these")
    pairs = []
    for each in map(str, given):
        name, equals, pattern = each.partition("=")
        if not name:
            raise InvalidSettingError(field, each, "it is name, or name=pattern")
        pairs.append((name, pattern if equals else None))
    return tuple(pairs)


#: The name of a field for people and JSON -> its attribute, and what reads it.
READERS: dict[str, tuple[str, Callable[[str, Any, int], Any]]] = {
    "topic": ("topic", _text),
    "key": ("key", _key),
    "destination": ("destination", _text),
    "exception": ("exception", _text),
    "reason": ("reason", _text),
    "attempt": ("attempt", _number),
    "due_from": ("due_from_ms", read_time_ms),
    "due_to": ("due_to_ms", read_time_ms),
    "died_from": ("died_from_ms", read_time_ms),
    "died_to": ("died_to_ms", read_time_ms),
    "older_than": ("older_than_s", _duration),
    "younger_than": ("younger_than_s", _duration),
    "header": ("header", _header),
    "text": ("text", _text),
    "task": ("task", _text),
}
