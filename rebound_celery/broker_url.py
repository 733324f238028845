"""Checks the URL of a Redis broker, and says which part of it is wrong.

kombu and redis-py raise a ValueError, a TypeError or a KeyError, in which a part of the password may stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote, urlsplit

from .errors import InvalidSettingError
from .shown import without_secrets

#: The schemes of Redis' URLs, up to a `+`.
REDIS_SCHEMES = frozenset({"redis", "rediss", "sentinel"})

#: What kombu's Connection takes from the query of a URL, beside what begins with `ssl_`.
_OPTIONS = frozenset({"connect_timeout", "credential_provider", "heartbeat", "insist", "login_method", "ssl"})
_CERTIFICATE = frozenset({"CERT_REQUIRED", "CERT_OPTIONAL", "CERT_NONE", "required", "optional", "none"})

#: Characters that end user and password, or that urllib refuses there.
_MISPLACED = re.compile(r"[/?#\[\]]|[^\x00-\x7f]")

_ENCODE = (
    "its user or its password is not percent-encoded: write %2F for /, %3F for ?, %23 for #, %5B for [, %5D for ], "
    "%3B for ; and %25 for % (urllib.parse.quote(password, safe='') returns it so)"
)
_PLACE = (
    "its host or its port cannot be read: write redis://:password@host:6379/0, with a port from 0 to 65535 and an IPv6 "
    "address in brackets"
)
_DATABASE = "its database is no number: write redis://host:6379/0"


def kind_of(url: object) -> str | None:
    """The scheme of a broker's URL up to a `+`, in lower case. Of several URLs it is the first's.

    None is for no URL at all. Celery also takes the name of a transport in its place.
    """
    first = url if isinstance(url, str) or not isinstance(url, Iterable) else next(iter(url), None)
    if not isinstance(first, str) or not first:
        return None
    scheme, colon, _ = first.partition("://")
    return scheme.lower().partition("+")[0] if colon else first


def check_broker_url(url: object) -> None:
    """Check the URL of a broker, several with `;`, or a sequence of them. Those of other brokers are left alone.

    Raises:
        InvalidSettingError: naming the wrong part of the URL, which is shown without its secrets.
    """
    if isinstance(url, str):
        _check_joined(url)
    elif isinstance(url, Iterable):
        for each in url:
            if isinstance(each, str):
                _check_joined(each)


def _check_joined(text: str) -> None:
    scheme, separator, _ = text.partition("://")
    if not separator or not _is_redis(scheme):
        return
    first, *others = text.split(";")
    if "@" in text and any("://" not in each for each in others):
        # kombu would take the second half of the password for another server.
        raise InvalidSettingError("broker_url", f"{scheme}://***", _ENCODE)
    for each in (first, *others):
        fault = _fault_of(each)
        if fault is not None:
            raise InvalidSettingError("broker_url", _shown_faulty(each, fault), fault)


def _is_redis(scheme: str) -> bool:
    return scheme.lower().partition("+")[0] in REDIS_SCHEMES


def _fault_of(url: str) -> str | None:
    """What is wrong with the URL of one Redis server; None if nothing is, or if it has no scheme of Redis."""
    scheme, separator, rest = url.partition("://")
    if not separator or not _is_redis(scheme):
        return None
    fault = _fault_of_socket(rest) if "+" in scheme else _fault_of_server(rest)
    user, at, _ = rest.rpartition("@")
    # Whatever such a character has broken behind it: it is the cause.
    return _ENCODE if fault is not None and at and _MISPLACED.search(user) else fault


def _fault_of_server(rest: str) -> str | None:
    try:
        # As kombu does it: with another scheme, urllib would not find all parts.
        parts = urlsplit(f"http://{rest}")
        _ = parts.port
    except ValueError:
        return _PLACE
    # kombu drops two slashes.
    database = unquote(parts.path).removeprefix("/").removeprefix("/")
    if database and not (database.isascii() and database.isdigit()):
        return _DATABASE
    if "@" in parts.fragment or ("@" in parts.query and "=" not in parts.query.partition("@")[0]):
        return _ENCODE
    for name, value in parse_qsl(parts.query):
        if name == "ssl_cert_reqs" and value not in _CERTIFICATE:
            return "its option ssl_cert_reqs is required, optional or none"
        if name not in _OPTIONS and not name.startswith("ssl_"):
            return (
                f"its query has an option that is unknown there: give {', '.join(sorted(_OPTIONS))} or ssl_..., and "
                "others in broker_transport_options"
            )
    return None


def _fault_of_socket(rest: str) -> str | None:
    try:
        options = dict(parse_qsl(urlsplit(f"http://{rest}").query))
    except ValueError:
        return _PLACE
    database = options.get("virtual_host", "").removeprefix("/")
    if database and not (database.isascii() and database.isdigit()):
        return "its option virtual_host, the database, is no number: write redis+socket:///path?virtual_host=0"
    return None


def _shown_faulty(url: str, fault: str) -> str:
    """A URL with a fault as an error may show it. Where `@` is missing, what follows the host may be secret."""
    if "@" in url or fault != _PLACE:
        return without_secrets(url)
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.partition(':')[0]}:***"
