"""Reads the URL of an HTTP receiver: everything that it carries is used in the request, or it is refused here."""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

from ..caching import cached

#: RFC 9110 asks every receiver for at least this many bytes, and many take not much more.
MAX_BYTES = 8_000

_RULE = "use http://host/path or https://host/path"
_UNREADABLE = f"its host or port cannot be read; {_RULE}"

#: What readers of URLs disagree about, or what would end a line of the request. `\\s` is white space of all scripts.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\x9f\s\\\ud800-\udfff]")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

#: A `%` that does not begin an escape, and so stands for itself.
_BARE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")

_ESCAPE = re.compile("%([0-9A-Fa-f]{2})")
#: What means the same with and without percent-encoding (RFC 3986, 6.2.2.2). Servers differ in whether they decode a
#: dot before they resolve `..`.
_UNRESERVED = re.compile("[A-Za-z0-9._~-]")

#: Host and port.
_PLACE = re.compile(r"(?:\[(?P<address>[^][]*)\]|(?P<name>[^][:]*))(?::(?P<port>[0-9]*))?", re.ASCII)
_HOST = re.compile(r"(?=.{1,254}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
#: What the system's resolver may take for an IPv4 address: `127.1`, `0x7f.0.0.1`, `2130706433`.
_IPV4 = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")

#: Scheme -> its own port.
PORTS = {"http": 80, "https": 443}


class HttpUrl(NamedTuple):
    """What a request needs of a URL, all of it ASCII.

    Attributes:
        scheme: "http" or "https".
        host: a name in lower case, or an IP address; IPv6 without brackets.
        port: the scheme's own where the URL has none.
        target: path and query.
        authorization: the value of the header `Authorization` for user and password; None where there are none.
    """

    scheme: str
    host: str
    port: int
    target: str
    authorization: str | None

    def __repr__(self) -> str:
        """It has no secret: neither the authorization nor the query."""
        return f"{type(self).__name__}({self.origin + self.target.partition('?')[0]!r})"

    @property
    def origin(self) -> str:
        """Scheme, host and port; the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")

    @property
    def endpoint(self) -> str:
        """Origin and path in the form in which URLs are compared: by this a receiver is known. See `normal_path`."""
        return self.origin + normal_path(self.target.partition("?")[0])

    @property
    def request_url(self) -> str:
        """The URL without user and password."""
        return self.origin + self.target


@cached
def read_http_url(url: object) -> HttpUrl:
    """Take a URL apart.

    A host with letters beyond ASCII is written as IDNA (UTS 46) has it, and an IPv4 address with four decimal numbers.
    Letters beyond ASCII in path and query are percent-encoded as UTF-8. A `%` that begins no escape is taken for
    itself.

    Raises:
        ValueError: saying what is wrong, without user, password, path and query.
    """
    if not isinstance(url, str):
        raise ValueError(_RULE)  # noqa: TRY004 - one error for whatever cannot be used
    check_characters(url)
    try:
        parts = urlsplit(url)
    except ValueError:
        # Its own text can hold the password.
        raise ValueError(_UNREADABLE) from None
    if parts.scheme not in PORTS:
        raise ValueError(_RULE)
    userinfo, _, place = parts.netloc.rpartition("@")
    found = _PLACE.fullmatch(place)
    if found is None:
        raise ValueError(_UNREADABLE)
    read = HttpUrl(
        parts.scheme,
        normal_host(found["name"]) if found["address"] is None else normal_address(found["address"]),
        read_port(found["port"]) if found["port"] else PORTS[parts.scheme],
        encoded(parts.path or "/", "/") + ("?" + encoded(parts.query, "/?") if "?" in url else ""),
        _authorization(userinfo) if userinfo else None,
    )
    if len(read.request_url) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    return read


def read_proxy(text: str) -> HttpUrl:
    """Take the URL of an HTTP proxy apart; `http://` may be missing.

    Raises:
        ValueError: saying what is wrong, without user and password.
    """
    rule = "a proxy is given as http://host:port or http://user:password@host:port"
    try:
        proxy = read_http_url(text if "://" in text else f"http://{text}")
    except ValueError as error:
        raise ValueError(f"{rule}; {error}") from None
    if proxy.scheme != "http" or proxy.target != "/":
        raise ValueError(rule)
    return proxy


def check_characters(text: str) -> None:
    """Check that a URL, or a pattern of URLs, has no fragment and no character that stands in no URL.

    Raises:
        ValueError: saying what is wrong.
    """
    if found := _FORBIDDEN.search(text):
        raise ValueError(f"a URL has no {found[0]!a}: write it percent-encoded")
    if "#" in text:
        raise ValueError("leave out the fragment ('#...'), which HTTP does not send; a '#' itself is written %23")


def read_port(digits: str) -> int:
    """Read the port of a URL.

    Raises:
        ValueError: if it is none.
    """
    digits = digits.lstrip("0")
    if len(digits) > 5 or not 0 < int(digits or 0) < 65536:
        raise ValueError("the port is a number from 1 to 65535")
    return int(digits)


def normal_address(text: str) -> str:
    """The normal form of an IPv6 address, without brackets.

    Raises:
        ValueError: if it is none, or has a zone.
    """
    address, zone, _ = text.partition("%")
    if zone:
        raise ValueError("leave out the zone of the IPv6 address ('%...'), for only one machine knows it")
    try:
        return ipaddress.IPv6Address(address).compressed
    except ValueError:
        raise ValueError(_UNREADABLE) from None


def normal_host(name: str) -> str:
    """The normal form of a host that is no IPv6 address: in lower case, as IDNA, or four decimal numbers.

    Raises:
        ValueError: if it is no host.
    """
    name = normal_name(name)
    return _ipv4(name) or name


def is_short_ipv4(name: str) -> bool:
    """Whether a name is an IPv4 address that is not written as four decimal numbers."""
    return _ipv4(name) not in (None, name)


def _ipv4(name: str) -> str | None:
    """The IPv4 address for which the resolver takes a name, so that one machine has one name here; None for none."""
    try:
        return socket.inet_ntoa(socket.inet_aton(name)) if _IPV4.fullmatch(name) else None
    except OSError:
        return None


def normal_name(name: str) -> str:
    """The normal form of the name of a host, or of a part of it between two dots.

    Raises:
        ValueError: if it is no name.
    """
    if not name.isascii():
        # It loads large tables, and few hosts need them.
        import idna

        name = idna.encode(name, uts46=True, std3_rules=True).decode("ascii")
    name = name.lower()
    if not _HOST.fullmatch(name):
        raise ValueError("its host is a name of letters, digits, '-', '_' and '.', or an IP address")
    return name


def encoded(text: str, more: str) -> str:
    """Path or query with what RFC 3986 does not allow there percent-encoded; escapes stay as they are.

    Args:
        text: the path or the query.
        more: which further characters are allowed there.
    """
    return quote(_BARE_PERCENT.sub("%25", text), safe=more + "%:@!$&'()*+,;=")


def normal_path(path: str) -> str:
    """An encoded path as it is compared.

    It has no `.` and `..`, also not percent-encoded. Escapes have capitals, and what needs no escape has none.
    """
    parts: list[str] = []
    path = _ESCAPE.sub(_needed_escape, path)
    for part in path.split("/")[1:]:
        if part == "..":
            del parts[-1:]
        elif part != ".":
            parts.append(part)
    if path.endswith(("/.", "/..")):
        parts.append("")
    return f"/{'/'.join(parts)}"


def _needed_escape(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if _UNRESERVED.fullmatch(character) else found[0].upper()


def _authorization(userinfo: str) -> str:
    """Basic authentication (RFC 7617) with the user and password of a URL."""
    user, _, password = (unquote_to_bytes(part) for part in userinfo.partition(":"))
    if b":" in user or _CONTROL.search(user + password):
        raise ValueError("its user has no ':', and neither user nor password has control characters")
    return "Basic " + base64.b64encode(user + b":" + password).decode("ascii")


def shown_location(location: str) -> str:
    """Another server's URL as a log may show it: without user, password, query and fragment, and not long."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "(unreadable)"
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else ""
    return "".join(ch if ch.isprintable() else "?" for ch in f"{place}{parts.path}")[:300]
