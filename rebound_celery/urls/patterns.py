"""Reads patterns of URLs into the form of the URLs with which they are compared; see `HttpUrl.endpoint`.

What has one meaning is read as a URL is read. Everything else is refused. So no pattern is accepted that fits no URL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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

#: What a sign may stand for in a host, in a port, and in a path.
_HOST_CHARACTERS = f"{ascii_lowercase}{digits}_.-"
_PATH_CHARACTERS = "".join(map(chr, range(0x21, 0x7F)))
#: What `*` stands for as a host.
_ANY_HOST = rf"(?:[{re.escape(_HOST_CHARACTERS)}]*|\[[0-9a-f:.]+\])"

_FITS_NONE = "it fits no URL"


class UrlPattern(NamedTuple):
    """A pattern of URLs as it is compared with them.

    Attributes:
        text: in the form of the URLs with which it is compared; with the path `/*` where it has none.
        url: the only URL that it fits; None if it may fit several.
        regex: what matches the endpoints of the URLs that it fits.
    """

    text: str
    url: str | None
    regex: re.Pattern[str]


def read_url_pattern(text: str, signs: re.Pattern[str] = STAR) -> UrlPattern:
    """Read a pattern of URLs as a URL is read.

    A sign in the host stands for characters of a host only, and one in the port for digits. So a pattern for the hosts
    of one domain fits no URL that has the name of such a host in its path.

    Args:
        text: the pattern.
        signs: what stands for characters in it. The scheme has none.

    Raises:
        ValueError: saying what is wrong or what to write, if it cannot be read, has more than one meaning, or fits no
            URL.
    """
    check_characters(text)
    masked, found = _mask(text, signs)
    scheme, separator, rest = masked.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in PORTS:
        raise ValueError(_RULE)
    authority, slash, path = rest.partition("/")
    if "@" in authority:
        raise ValueError(_USER_RULE)
    if "?" in rest or (signs is SIGNS and _QUERY.search(text)):
        raise ValueError(_QUERY_RULE)
    place = _PLACE.fullmatch(authority)
    if place is None:
        raise ValueError("its host or port cannot be read: write http://host/path, and an IPv6 address in brackets")
    in_place = authority.count(_SIGN)
    found = [sign.lower() for sign in found[:in_place]] + found[in_place:]
    host, port, path = _host(place["host"]), _port(place["port"] or "", scheme), _path(slash + path)
    if not path:
        path = f"/{_SIGN}"
        found.append("*")
    normal = _fill(f"{scheme}://{host}{port}{path}", iter(found))
    regex = _regex(scheme, host, port, path, iter(found))
    _check_fits(text, signs, regex)
    return UrlPattern(normal, None if found else normal, regex)


def _regex(scheme: str, host: str, port: str, path: str, signs: Iterator[str]) -> re.Pattern[str]:
    """What matches the endpoints that a pattern fits, as a whole."""
    in_host = [next(signs) for _ in range(host.count(_SIGN))]
    host = _ANY_HOST if in_host == ["*"] and host == _SIGN else _glob(host, iter(in_host), _HOST_CHARACTERS)
    in_port = [next(signs) for _ in range(port.count(_SIGN))]
    # A scheme's own port is not written.
    is_own = bool(in_port) and fnmatchcase(f":{PORTS[scheme]}", _fill(port, iter(in_port)))
    port = _glob(port, iter(in_port), digits)
    port = f"(?:{port})?" if is_own else port
    return re.compile(rf"{scheme}://{host}{port}{_glob(path, signs, _PATH_CHARACTERS)}\Z")


def _glob(masked: str, signs: Iterator[str], characters: str) -> str:
    """A regular expression for a part of a pattern.

    Args:
        masked: the part with a stand-in for each sign.
        signs: the signs.
        characters: what the signs may stand for.
    """
    any_one = f"[{re.escape(characters)}]"
    pieces = [""]
    for literal in re.split(f"({_SIGN})", masked):
        sign = next(signs) if literal == _SIGN else None
        if sign is None:
            pieces[-1] += re.escape(literal)
        elif sign == "*":
            pieces.append("")
        else:
            pieces[-1] += any_one if sign == "?" else _set(sign, characters)
    first, *others = pieces
    if not others:
        return first
    # What is between two stars is taken at its first place, as `fnmatch` does: no other place fits more, and to try
    # them all would take a time that grows with a power of the URL's length.
    between = "".join(f"(?>{any_one}*?{piece})" for piece in others[:-1] if piece)
    return f"{first}{between}{any_one}*{others[-1]}"


def _set(sign: str, characters: str) -> str:
    """A regular expression for a set of characters such as `[ab]`."""
    chosen = "".join(one for one in characters if fnmatchcase(one, sign))
    if not chosen:
        raise ValueError(_FITS_NONE)
    return f"[{re.escape(chosen)}]"


def _check_fits(text: str, signs: re.Pattern[str], regex: re.Pattern[str]) -> None:
    """Check that a pattern fits a URL that is written like it.

    Raises:
        ValueError: if it does not, with the reason why there is no such URL.
    """
    why = _FITS_NONE
    for url in _examples(text, signs):
        try:
            endpoint = read_http_url(url).endpoint
        except ValueError as error:
            why = f"{_FITS_NONE}: {error}"
        else:
            if regex.match(endpoint):
                return
    raise ValueError(why)


def check_comparable(text: str, signs: re.Pattern[str]) -> None:
    """Check a pattern without `://`: its host and path cannot be told apart, so it is compared as it is.

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
    for star in ("1", "x", ""):
        parts = [_one_of(sign, star) for sign in found]
        if None not in parts:
            yield _fill(masked, iter(map(str, parts)))


def _one_of(sign: str, star: str) -> str | None:
    """A text for which a sign stands; None if there is none in a URL.

    Args:
        sign: the sign.
        star: what is taken for `*`, and for the others if they stand for it.
    """
    if sign == "*":
        return star
    return next((one for one in (star, *_TRIED) if len(one) == 1 and fnmatchcase(one, sign)), None)
