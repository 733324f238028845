"""Reads patterns of URLs into the form of the URLs with which they are compared; see `HttpUrl.endpoint`.

What has one meaning is read as a URL is read. Everything else is refused. So no pattern is accepted that fits no URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from string import ascii_lowercase, digits
from typing import NamedTuple

from .http_url import (
    PORTS,
    check_characters,
    encoded,
    is_short_ipv4,
    normal_address,
    normal_host,
    normal_name,
    normal_path,
    read_http_url,
    read_port,
)

#: What stands for characters in a pattern: `*` for any number of them.
STAR = re.compile(r"\*")
#: The same, `?` for one, and `[ab]` for one of these. Like `fnmatch`, a bracket that is not closed is a character.
SIGNS = re.compile(r"\*|\?|\[!?\]?[^\]]*\]")

#: Stands for a sign while the text around it is read. No URL has it.
_SIGN = "\0"

_ADDRESS = re.compile(r"[^/?#]*?://(?P<address>\[[^]/*]*:[^]/*]*\])")
_IPV6 = re.compile(r"\[[0-9a-f:.]+:[0-9a-f:.]*\]")
_PLACE = re.compile(r"(?P<host>\[[^][]*\]|[^][:]*)(?::(?P<port>[0-9\0]*))?", re.ASCII)
#: What IDNA takes for a dot.
_DOT = re.compile("[.\u3002\uff0e\uff61]")
_LABEL = re.compile(r"[a-z0-9_\0-]*")
_CUT_ESCAPE = re.compile(r"%[0-9A-Fa-f]?\0")
_STEP_BACK = re.compile(r"\0.*/(?:\.|%2e){2}(?:/|$)", re.DOTALL | re.IGNORECASE)
#: What looks like a query, although `?` is a sign.
_QUERY = re.compile(r"\?[^/?*\[\]]*=")
#: What the comparable form of a URL has. An escape may begin or end beyond the text.
_COMPARABLE = re.compile(r"(?:[]\w:@!$&'()*+,;=/.~[-]|%(?:[0-9A-F]{2}|[0-9A-F]?$))*", re.ASCII)

_RULE = "it begins with http:// or https://"
_USER_RULE = "leave out user and password: a URL is compared without them"
_QUERY_RULE = "leave out the query ('?...'): a URL is compared without it"

#: What a set of characters is tried with.
_TRIED = f"x1{ascii_lowercase}{digits}{ascii_lowercase.upper()}-_~.:@!$&'()+,;=/"


class UrlPattern(NamedTuple):
    """A pattern of URLs, in the form of the URLs with which it is compared.

    Attributes:
        scheme: "http" or "https"; it may have signs.
        host: an IPv6 address in brackets.
        port: with its colon; "" for the scheme's own.
        path: "" where the pattern has none.
        has_signs: whether it stands for more than one URL.
    """

    scheme: str
    host: str
    port: str
    path: str
    has_signs: bool

    @property
    def text(self) -> str:
        """The whole pattern."""
        return f"{self.scheme}://{self.host}{self.port}{self.path}"

    @property
    def for_fnmatch(self) -> tuple[str, ...]:
        """The whole pattern for `fnmatch`; two of them where all ports are meant, for a scheme's own is not written."""
        # The bracket of an IPv6 address would begin a set.
        host = f"[[]{self.host[1:]}" if _IPV6.fullmatch(self.host) else self.host
        whole = f"{self.scheme}://{host}{self.port}{self.path}"
        return (whole, f"{self.scheme}://{host}{self.path or '/*'}") if self.port == ":*" else (whole,)


def read_url_pattern(text: str, signs: re.Pattern[str] = STAR, *, stays_in_host: bool = False) -> UrlPattern:
    """Read a pattern of URLs as a URL is read.

    Args:
        text: the pattern.
        signs: what stands for characters in it.
        stays_in_host: whether a sign in the host stands for a part of the host alone. Otherwise what follows it may be
            a part of the path, so it has to have the normal form already.

    Raises:
        ValueError: saying what is wrong or what to write, if it cannot be read, or has more than one meaning.
    """
    check_characters(text)
    masked, found = _mask(text, signs)
    scheme, separator, rest = masked.partition("://")
    scheme = scheme.lower()
    if not separator or (scheme not in PORTS and _SIGN not in scheme):
        raise ValueError(_RULE)
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise ValueError(_USER_RULE)
    if "?" in rest or (signs is SIGNS and _QUERY.search(text)):
        raise ValueError(_QUERY_RULE)
    place = _PLACE.fullmatch(authority)
    if place is None:
        raise ValueError("its host or port cannot be read: write http://host/path, and an IPv6 address in brackets")
    host, port = _host(place["host"]), _port(place["port"] or "", scheme)
    if stays_in_host and _SIGN in port and port != f":{_SIGN}":
        raise ValueError("the port is a number from 1 to 65535, or * for all ports")
    own_ports = [str(own) for name, own in PORTS.items() if name == scheme or _SIGN in scheme]
    before, after = f"{scheme}://{authority}", f"{scheme}://{host}{port}"
    lowered = [sign.lower() if index < before.count(_SIGN) else sign for index, sign in enumerate(found)]
    filling = iter(lowered)
    scheme, host, port, path = (_fill(part, filling) for part in (scheme, host, port, _path(slash + path)))
    if port not in ("", ":*") and any(fnmatchcase(own, port[1:]) for own in own_ports):
        raise ValueError("a URL is compared without its scheme's own port: write :* for all ports")
    read = UrlPattern(scheme, host, port, path, bool(found))
    if not stays_in_host and _after_sign(before, found) != _after_sign(after, lowered):
        raise ValueError(f"write {read.text}")
    return read


def check_fits(text: str, signs: re.Pattern[str], fits: Callable[[str], object]) -> None:
    """Check that a pattern fits a URL that is written like it.

    Args:
        text: the pattern as it was given.
        signs: what stands for characters in it.
        fits: says whether the pattern as it was read fits the endpoint of a URL.

    Raises:
        ValueError: if it does not, with the reason why there is no such URL.
    """
    why = "it fits no URL"
    for url in _examples(text, signs):
        try:
            endpoint = read_http_url(url).endpoint
        except ValueError as error:
            why = f"it fits no URL: {error}"
        else:
            if fits(endpoint):
                return
    raise ValueError(why)


def check_comparable(text: str, signs: re.Pattern[str]) -> None:
    """Check a pattern whose host and path cannot be told apart.

    Raises:
        ValueError: if it has what no URL has in its normal form.
    """
    masked, found = _mask(text, signs)
    for part in masked.split(_SIGN):
        if not _COMPARABLE.fullmatch(part):
            raise ValueError(
                "a URL is compared in ASCII: write a host as IDNA (xn--...), and a path percent-encoded, "
                "with capitals (%C3%B6)"
            )
    if any(_one_of(sign, "") is None for sign in found):
        raise ValueError("a URL is compared in ASCII, and a set of its has no such character")
    if signs is SIGNS and _QUERY.search(text):
        raise ValueError(_QUERY_RULE)


def _mask(text: str, signs: re.Pattern[str]) -> tuple[str, list[str]]:
    """The text with a stand-in for each sign, and the signs. The brackets of an IPv6 address are no sign."""
    found: list[str] = []

    def stand_in(sign: re.Match[str]) -> str:
        found.append(sign[0])
        return _SIGN

    address = _ADDRESS.match(text)
    start, end = address.span("address") if address else (0, 0)
    return signs.sub(stand_in, text[:start]) + text[start:end] + signs.sub(stand_in, text[end:]), found


def _fill(masked: str, signs: Iterator[str]) -> str:
    """The text with its signs in place of the stand-ins."""
    return re.sub(_SIGN, lambda _: next(signs), masked)


def _after_sign(masked: str, signs: Sequence[str]) -> str:
    """What follows the first sign."""
    return _fill(masked.partition(_SIGN)[2], iter(signs[1:]))


def _host(host: str) -> str:
    if host.startswith("["):
        return f"[{normal_address(host[1:-1])}]"
    if _SIGN not in host:
        return normal_host(host)
    name = ".".join(map(_label, _DOT.split(host)))
    literal = name.rstrip(_SIGN)
    if is_short_ipv4(literal):
        raise ValueError("give whole numbers of an IPv4 address before a wildcard, such as 10.1.*")
    return name


def _label(label: str) -> str:
    """A part of a host between two dots."""
    if _SIGN not in label:
        return normal_name(label) if label else ""
    if not label.isascii():
        raise ValueError("a part of the host with letters beyond ASCII has no wildcard: write * for the whole part")
    label = label.lower()
    if not _LABEL.fullmatch(label):
        raise ValueError("its host is a name of letters, digits, '-', '_' and '.', or an IP address")
    return label


def _port(port: str, scheme: str) -> str:
    if _SIGN in port:
        return f":{port}"
    number = read_port(port) if port else PORTS.get(scheme)
    return "" if number == PORTS.get(scheme) else f":{number}"


def _path(path: str) -> str:
    if not path:
        return ""
    if _CUT_ESCAPE.search(path):
        raise ValueError("a wildcard cuts an escape in its path: write the whole of it, such as %C3, or * for it")
    path = _SIGN.join(encoded(part, "/") for part in path.split(_SIGN))
    if _STEP_BACK.search(path):
        raise ValueError("its path has '..' after a wildcard: leave it out")
    return normal_path(path)


def _examples(text: str, signs: re.Pattern[str]) -> Iterator[str]:
    """URLs that are written like a pattern."""
    masked, found = _mask(text, signs)
    scheme, separator, rest = masked.partition("://")
    pattern = _fill(scheme, iter(found)).lower()
    for name in PORTS:
        if fnmatchcase(name, pattern):
            for star in ("1", "x", ""):
                parts = [_one_of(sign, star) for sign in found[scheme.count(_SIGN) :]]
                if None not in parts:
                    yield name + separator + _fill(rest, iter(map(str, parts)))


def _one_of(sign: str, star: str) -> str | None:
    """A text for which a sign stands; None if there is none in a URL.

    Args:
        sign: the sign.
        star: what is taken for `*`, and for the others if they stand for it.
    """
    if sign == "*":
        return star
    return next((one for one in (star, *_TRIED) if len(one) == 1 and fnmatchcase(one, sign)), None)
