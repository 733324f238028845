"""How the values that a caller gives become the bytes and texts of a message: one encoding for all of them.

Bytes stay as they are, and text becomes UTF-8. Any other value becomes JSON as Celery writes it: kombu's encoder, with
all types that are registered there (UUID, Decimal, datetime, date, time). `kombu.utils.json.loads` reads it back. Where
only text is possible, in keys, headers and ids, a number or a UUID becomes what `str()` makes of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from kombu.utils.json import JSONEncoder

from .errors import InvalidSettingError
from .message import Headers, normalize_headers

#: What names a record or a message: text, or what has one clear form as text.
Name = str | int | float | Decimal | UUID

#: The part of `Name` that is not text.
_NAMES = (int, float, Decimal, UUID)

_celerys_default = JSONEncoder().default


def _default(part: Any) -> object:
    """What JSON has in place of a value, or of a part of one; raises TypeError, which says what to give, for others."""
    try:
        return _celerys_default(part)
    except TypeError as error:
        raise TypeError(f"{error}{_advice(part)}") from None


def _advice(part: Any) -> str:
    if is_dataclass(part) and not isinstance(part, type):
        return "; give dataclasses.asdict(it)"
    if hasattr(part, "model_dump"):  # of the user: a model of pydantic
        return '; give it.model_dump(mode="json")'
    if hasattr(part, "__attrs_attrs__"):  # of the user: a class of attrs
        return "; give attrs.asdict(it)"
    if isinstance(part, msgspec.Struct):
        return "; give msgspec.to_builtins(it)"
    return ""


_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_default).encode


def encode_value(data: object) -> tuple[bytes, str | None]:
    """Return the bytes of a value, and the content type that an HTTP receiver is told.

    Raises:
        InvalidSettingError: if JSON cannot hold it.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), None
    try:
        if isinstance(data, str):
            return data.encode(), "text/plain; charset=utf-8"
        return _to_json(data).encode(), "application/json"
    except UnicodeEncodeError as error:
        raise InvalidSettingError("value", data, surrogate_rule(error)) from None
    except Exception as error:  # an object of the caller's may do anything when it is asked for its JSON
        raise InvalidSettingError("value", data, f"give bytes, text, None, or what JSON can hold ({error})") from error


def encode_key(key: object) -> bytes:
    """Return the bytes of a record's key.

    Raises:
        InvalidSettingError: if it is neither bytes nor a name.
    """
    if isinstance(key, bytes | bytearray | memoryview):
        return bytes(key)
    try:
        return _text_of(key).encode()
    except UnicodeEncodeError as error:
        raise InvalidSettingError("key", key, surrogate_rule(error)) from None
    except (TypeError, ValueError) as error:
        raise InvalidSettingError("key", key, "give bytes, text, a number, a UUID or None") from error


def encode_headers(headers: Any) -> Headers:
    """Return headers as pairs of text and bytes.

    Raises:
        InvalidSettingError: if they are neither a mapping nor pairs, or a name or a value cannot be used.
    """
    try:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        given = [(name, _text_of(value) if _is_name(value) else value) for name, value in pairs]
        for name, _ in given:
            str(name).encode()
        return normalize_headers(given)
    except UnicodeEncodeError as error:
        raise InvalidSettingError("headers", headers, surrogate_rule(error)) from None
    except Exception as error:
        raise InvalidSettingError("headers", headers, f"give a mapping or pairs ({error})") from error


def text_of(field: str, value: object) -> str:
    """Return the text of a field that names something.

    Raises:
        InvalidSettingError: naming the field.
    """
    try:
        if text := _text_of(value):
            return checked_text(field, text)
    except TypeError:
        pass
    raise InvalidSettingError(field, value, "give a text, a number, a UUID or None")


def checked_text(field: str, text: str) -> str:
    """Return a text that UTF-8 can hold.

    Raises:
        InvalidSettingError: naming the field, if the text has half of a surrogate pair.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidSettingError(field, text, surrogate_rule(error)) from None
    return text


def surrogate_rule(error: UnicodeEncodeError) -> str:
    """Say which character of a text UTF-8 cannot hold, and what to do."""
    character = ascii(error.object[error.start])
    return f"UTF-8 has no {character}, which is half of a surrogate pair: correct the text"


def _is_name(value: object) -> bool:
    return isinstance(value, _NAMES) and not isinstance(value, bool)


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return value
    if _is_name(value):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no text")
