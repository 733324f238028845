"""Readers of the values of settings. Each raises InvalidSettingError, which names the setting and what is allowed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .errors import InvalidSettingError
from .shown import shown_url
from .urls.http_url import read_http_url
from .urls.http_url import read_proxy as parse_proxy

#: What a flag is called in the environment.
_FLAGS = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}


def read_seconds(name: str, value: object) -> float:
    """A number of seconds above 0."""
    try:
        seconds = -1.0 if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidSettingError(name, value, "it is a number of seconds above 0")
    return seconds


def read_count(name: str, value: object) -> int:
    """A whole number from 1 to 1000."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise InvalidSettingError(name, value, "it is a whole number from 1 to 1000")
    return value


def read_name(name: str, value: object) -> str:
    """A name without spaces."""
    if not isinstance(value, str) or not value or any(ch.isspace() for ch in value):
        raise InvalidSettingError(name, value, "it is a name without spaces")
    return value


def parse_path(value: object, name: str) -> str:
    """Return the path of a file as text.

    Raises:
        InvalidSettingError: if `value` is not a path.
    """
    text = str(value) if isinstance(value, str | os.PathLike) else ""
    if not text or "\0" in text:
        raise InvalidSettingError(name, value, "it is the path of a file")
    return text


def read_proxy(name: str, value: object) -> str:
    """An HTTP proxy's URL, or "" for none. What is wrong with a URL is said without its user and password."""
    if not isinstance(value, str):
        raise InvalidSettingError(name, shown_url(value), 'it is the URL of a proxy, or "" for none')
    if value:
        try:
            parse_proxy(value)
        except ValueError as error:
            raise InvalidSettingError(name, "***", str(error)) from None
    return value


def read_url(name: str, value: object) -> str:
    """An HTTP URL. What is wrong with it is said without its user and password."""
    try:
        read_http_url(value)
    except ValueError as error:
        raise InvalidSettingError(name, "***", str(error)) from None
    return str(value)


def read_mapping(name: str, value: object) -> dict[str, Any]:
    """A mapping of option names to values."""
    if not isinstance(value, Mapping) or not all(isinstance(option, str) for option in value):
        raise InvalidSettingError(name, value, "it is a mapping of option names to values")
    return dict(value)


def read_flag(name: str, value: object) -> bool:
    """Return a value that is True or False; in the environment it is a text."""
    found = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
    if found is None:
        raise InvalidSettingError(name, value, "it is True or False")
    return found
