"""HTTP connections that end at a deadline, whatever they are at: connecting, sending, or reading an answer.

urllib3's own time-outs begin anew with each address that is tried and with each piece that arrives: for them a receiver
that sends a byte each second is never late.
"""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import urllib3
from urllib3 import connection
from urllib3.exceptions import NameResolutionError, NewConnectionError

#: How much is sent under one time-out of the socket's, in bytes.
_PIECE_BYTES = 65_536


class _Limits(threading.local):
    """The deadlines of the post that runs in this thread, by the monotonic clock."""

    connect_by: float = 0.0
    end_by: float = 0.0


_limits = _Limits()


@contextmanager
def time_limits(connect_s: float, total_s: float) -> Iterator[None]:
    """Let all that connections of `pool_manager` do in this thread end in time.

    Args:
        connect_s: seconds to look the host up, to connect, and to agree on TLS.
        total_s: seconds for all of it.
    """
    now = time.monotonic()
    _limits.connect_by, _limits.end_by = now + min(connect_s, total_s), now + total_s
    yield


def _left(by: float) -> float:
    """Seconds left, more than none; raises TimeoutError where there are none."""
    left = by - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class _Socket(Protocol):
    """What is used of a socket: TLS, gevent and eventlet each have classes of their own."""

    def settimeout(self, value: float | None, /) -> None: ...
    def send(self, data: memoryview, /) -> int: ...
    def makefile(self, mode: Any, buffering: Any) -> Any: ...
    def shutdown(self, how: int, /) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class _Reader(io.RawIOBase):
    """Reads from a socket until the deadline."""

    def __init__(self, sock: _Socket) -> None:
        self._socket = sock
        # The socket stays open for as long as its own file does, as http.client expects.
        self._file = sock.makefile("rb", 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(_left(_limits.end_by))
        read: int | None = self._file.readinto(buffer)
        return read

    def close(self) -> None:
        self._file.close()
        super().close()


class _TimedSocket:
    """A connected socket as urllib3 and http.client use it, with deadlines in place of time-outs."""

    def __init__(self, sock: _Socket) -> None:
        self._socket = sock
        self.shutdown, self.fileno, self.close = sock.shutdown, sock.fileno, sock.close

    def settimeout(self, value: float | None) -> None:
        """Do nothing: urllib3 sets the time-out of a phase here."""

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(_left(_limits.end_by))
            rest = rest[self._socket.send(rest[:_PIECE_BYTES]) :]

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._socket))


# Errors show the names of these classes.


class HTTPConnection(connection.HTTPConnection):
    def _new_conn(self) -> socket.socket:
        """Connect to the first of the host's addresses that takes it; all of them share the time."""
        try:
            found = socket.getaddrinfo(self._dns_host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        cause: OSError | None = None
        for family, kind, protocol, _, address in found:
            try:
                return self._connect_to(address, family, kind, protocol)
            except OSError as error:
                cause = cause or error
        raise NewConnectionError(self, f"Failed to establish a new connection: {cause}") from cause

    def _connect_to(self, address: Any, *kind: int) -> socket.socket:
        sock = socket.socket(*kind)
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(_left(_limits.connect_by))
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def connect(self) -> None:
        super().connect()
        self.sock = _TimedSocket(self.sock)


class HTTPSConnection(HTTPConnection, connection.HTTPSConnection):
    _watch: threading.Timer | None = None

    def _connect_to(self, address: Any, *kind: int) -> socket.socket:
        sock = super()._connect_to(address, *kind)
        # The time-out of the socket bounds the handshake as a whole, but with gevent and eventlet only each wait in it.
        # TLS takes the socket over, so that it is shut down by another one of the same connection.
        self._twin = sock.dup()
        self._watch = threading.Timer(max(0, _limits.connect_by - time.monotonic()), _shut_down, [self._twin])
        self._watch.daemon = True
        self._watch.start()
        return sock

    def connect(self) -> None:
        try:
            super().connect()
        except OSError as error:
            if time.monotonic() >= _limits.connect_by:
                raise TimeoutError("connecting timed out") from error
            raise
        finally:
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
                self._twin.close()


def _shut_down(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class HTTPConnectionPool(urllib3.HTTPConnectionPool):
    ConnectionCls = HTTPConnection


class HTTPSConnectionPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = HTTPSConnection


def pool_manager(hosts: int, per_host: int) -> urllib3.PoolManager:
    """Connections that keep `time_limits`, kept open for so many hosts and so many for each."""
    # `Lanes` bounds the posts to a host. A pool that blocks would wait for a place without regard to the deadline.
    manager = urllib3.PoolManager(num_pools=hosts, maxsize=per_host, block=False, retries=False)
    manager.pool_classes_by_scheme = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}
    return manager
