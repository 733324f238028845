"""What each option of an HTTP destination may be."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from ..errors import InvalidSettingError
from ..urls.http_url import read_proxy
from .keys import read_keys

METHODS = ("POST", "PUT", "PATCH", "DELETE")

#: Bounds: hops, requests at once, requests a second, seconds, hours.
MAX_REDIRECTS = 10
MAX_CONCURRENCY = 64
_MAX_RATE = 1_000_000
_MAX_S = 86_400.0
_MAX_HOURS = 8_760.0

#: Half a surrogate pair, as a text of Python's may have it.
_SURROGATE = re.compile("[\ud800-\udfff]")

#: Headers that say where a request ends, or how long its connection lives. A wrong one would break the next request.
OF_CONNECTION = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)

#: The form of a header name (RFC 9110).
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

Network = IPv4Network | IPv6Network


def _method(name: str, value: Any) -> str:
    if value not in METHODS:
        raise InvalidSettingError(name, value, f"it is one of {', '.join(METHODS)}")
    return str(value)


def _headers(name: str, value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidSettingError(name, "***", "it is a mapping of names to texts")
    for header, text in value.items():
        if not isinstance(header, str) or not HEADER_NAME.fullmatch(header):
            raise InvalidSettingError(name, header, "the name of a header has letters, digits and '-'")
        if header.lower() in OF_CONNECTION:
            raise InvalidSettingError(f"{name}.{header}", "***", "this header is of the connection: leave it out")
        if not isinstance(text, str) or not text.isascii() or not text.isprintable():
            raise InvalidSettingError(f"{name}.{header}", "***", "a header's value is printable ASCII")
    return dict(value)


def _content_type(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isascii() or not value.isprintable():
        raise InvalidSettingError(name, value, "it is a media type, such as application/json")
    return value


def _query(name: str, value: Any) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(map(_is_text, (*value, *value.values()))):
        raise InvalidSettingError(name, "***", "it is a mapping of names to texts")
    return dict(value)


def _is_text(value: object) -> bool:
    """Whether it is a text that UTF-8 can hold."""
    return isinstance(value, str) and not _SURROGATE.search(value)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidSettingError(name, value, "it is True or False")
    return value


def _whole(least: int, most: int) -> Callable[[str, Any], int]:
    def read(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidSettingError(name, value, f"it is a whole number from {least} to {most}")
        return value

    return read


def _number(unit: str, most: float, *, zero: bool = False) -> Callable[[str, Any], float]:
    rule = f"it is a number of {unit}, {'from' if zero else 'above'} 0 to {most:.0f}"

    def read(name: str, value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= most or (value == 0 and not zero):
            raise InvalidSettingError(name, value, rule)
        return float(value)

    return read


def _networks(name: str, value: Any) -> tuple[Network, ...]:
    given = [value] if isinstance(value, str) else value
    rule = "it is a list of networks, such as 10.1.0.0/16"
    if not isinstance(given, list | tuple):
        raise InvalidSettingError(name, value, rule)
    try:
        return tuple(ip_network(item) for item in given)
    except ValueError as error:
        raise InvalidSettingError(name, value, f"{rule}; {error}") from None


def _path(name: str, value: Any) -> str:
    text = str(value) if isinstance(value, str | os.PathLike) else ""
    if not text or "\0" in text:
        raise InvalidSettingError(name, value, "it is the path of a PEM file")
    return text


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidSettingError(name, "***", "it is a text")
    return value


def _proxy(name: str, value: Any) -> str:
    try:
        if value:
            read_proxy(_text(name, value))
    except ValueError as error:
        allowed = error.allowed if isinstance(error, InvalidSettingError) else str(error)
        raise InvalidSettingError(name, "***", allowed) from None
    return _text(name, value)


#: Option -> what reads it: a function of the option's name and the value.
RULES: Mapping[str, Callable[[str, Any], Any]] = {
    "method": _method,
    "headers": _headers,
    "content_type": _content_type,
    "query": _query,
    "secret": read_keys,
    "strict": _switch,
    "max_redirects": _whole(0, MAX_REDIRECTS),
    "connect_timeout": _number("seconds", _MAX_S),
    "read_timeout": _number("seconds", _MAX_S),
    "timeout": _number("seconds", _MAX_S),
    "max_retry_after": _number("seconds", _MAX_S, zero=True),
    "concurrency": _whole(1, MAX_CONCURRENCY),
    "rate": _number("requests a second", _MAX_RATE),
    "public_only": _switch,
    "allowed_networks": _networks,
    "verify": _switch,
    "ca_file": _path,
    "client_cert": _path,
    "client_key": _path,
    "client_key_password": _text,
    "proxy": _proxy,
    "disable_after": _number("hours", _MAX_HOURS, zero=True),
}
