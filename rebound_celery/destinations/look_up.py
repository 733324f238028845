"""Looking up the addresses of a host with a time-out: nothing can end `getaddrinfo` itself."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from .shortage import shortage_now

#: A process, a host and a port. A forked child has a copy of this, but not the threads that look up.
_Place = tuple[int, str, int]

_running: dict[_Place, Future[list[Any]]] = {}


def look_up(host: str, port: int, timeout_s: float) -> list[Any]:
    """The addresses of a host, as `socket.getaddrinfo` gives them.

    A look-up that hangs is left behind in a daemon thread, which holds up no process that ends. Nobody begins a second
    one for the same host meanwhile, so that these threads stay few.

    Raises:
        TimeoutError: if they are not known in time.
        socket.gaierror: if there are none.
        OSError: if this process has no file descriptor left.
        RuntimeError: if no thread can be started.
    """
    with suppress(ValueError):
        # An address needs no look-up, and no thread.
        is_ipv6 = ip_address(host).version == 6
        address = (host, port, 0, 0) if is_ipv6 else (host, port)
        return [(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]
    place = (os.getpid(), host, port)
    mine: Future[list[Any]] = Future()
    found = _running.setdefault(place, mine)
    if found is mine:
        try:
            threading.Thread(target=_run, args=(place, found), name="rebound-look-up", daemon=True).start()
        except RuntimeError as error:
            # Without an end, everybody who looks up this host later would wait for this look-up.
            _running.pop(place, None)
            found.set_exception(error)
    try:
        return found.result(timeout_s)
    except TimeoutError:
        raise TimeoutError("timed out in looking up the host") from None


def _run(place: _Place, found: Future[list[Any]]) -> None:
    _, host, port = place
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except BaseException as raised:  # noqa: BLE001 - raised where the addresses are waited for
        error = (shortage_now() or raised) if isinstance(raised, socket.gaierror) else raised
        _running.pop(place, None)
        found.set_exception(error)
    else:
        _running.pop(place, None)
        found.set_result(addresses)
