"""Which HTTP proxy a post goes through: the setting's, the environment's, or none; and which errors are the proxy's."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

from urllib3.exceptions import NewConnectionError, ProxyError

from ..urls.http_url import HttpUrl, normal_host, read_proxy

#: What http.client says of a proxy that asks for a user and password before it makes a tunnel.
_TUNNEL_REFUSED = "Tunnel connection failed: 407"

_SEPARATORS = re.compile(r"[\s,]+")
_PORT = re.compile(r"(?P<host>\[[^]]*\]|[^:]*):(?P<port>[0-9]+)", re.ASCII)


class Proxies:
    """Chooses the proxy of each post.

    Args:
        setting: `rebound_http_proxy`: a proxy for all posts; "" for none; None for what the environment says.
        environment: from a scheme, or `all`, to a proxy; `no` names the hosts that are reached without one.
    """

    def __init__(self, setting: str | None = "", environment: Mapping[str, str] | None = None) -> None:
        self._given = environment or {}
        if setting is not None:
            self._given = {"all": setting} if setting else {}
        self._spared = [entry for entry in _SEPARATORS.split(self._given.get("no", "")) if entry]
        self.of = lru_cache(1_024)(self._of)

    def _of(self, scheme: str, host: str, port: int) -> HttpUrl | None:
        """The proxy of posts to this place; None for none.

        Raises:
            ValueError: if it cannot be used.
        """
        text = self._given.get(scheme) or self._given.get("all")
        if not text or any(_is_named(entry.lower(), host, port) for entry in self._spared):
            return None
        return read_proxy(text)


def _is_named(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY means this host: `*`, a name and all names below it, an address, or a network.

    A name or an address may have a port.
    """
    if entry == "*":
        return True
    if found := _PORT.fullmatch(entry):
        if int(found["port"]) != port:
            return False
        entry = found["host"]
    entry = entry.strip("[]")
    with suppress(ValueError):
        entry = normal_host(entry.removeprefix("*").strip("."))
    host = host.rstrip(".")
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        with suppress(ValueError):
            return address in ipaddress.ip_network(entry, strict=False)
        return False
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def is_proxys_fault(error: Exception) -> bool:
    """Whether the proxy let nobody connect, or refused this worker. This says nothing of the receiver."""
    cause = error.original_error if isinstance(error, ProxyError) else error
    return isinstance(cause, NewConnectionError) or _TUNNEL_REFUSED in str(cause)
