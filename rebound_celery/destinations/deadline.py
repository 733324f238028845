"""HTTP connections with one deadline for everything: connecting, sending, and reading the answer.

urllib3's own time-outs begin anew with each address that it tries and with each piece of data that arrives. A receiver
that sends one byte a second never exceeds them.
"""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any, Protocol

import urllib3
from urllib3 import connection
from urllib3.exceptions import NameResolutionError, NewConnectionError

from ..clock import SYSTEM_CLOCK
from .addresses import AddressGuard
from .look_up import look_up

#: How many bytes are sent under one time-out of the socket.
_PIECE_BYTES = 65_536
#: Head and body of a request are sent together if they are no longer than this.
_TOGETHER_BYTES = 16_384

#: The status line of an interim answer. 101 is none: with it the server leaves HTTP.
_INTERIM = re.compile(rb"HTTP/1\.[0-9] +1(?!01)[0-9][0-9]\b")
_LONGEST_LINE = 65_536
#: How many bytes of interim answers are read over.
_LONGEST_INTERIM = 262_144


class _Limits(threading.local):
    """What holds for the post that runs in this thread. Times are those of the monotonic clock."""

    connect_s: float = 0.0
    connect_by: float = 0.0
    end_by: float = 0.0
    #: The longest wait for a piece of the answer; None for none of its own.
    read_s: float | None = None
    #: Which addresses may be connected to; None for all.
    guard: AddressGuard | None = None
    #: Whether its connection must be a new one.
    is_fresh: bool = False
    #: Whether its connection has carried a post before, and whether a byte of the answer has come.
    is_reused: bool = False
    is_answered: bool = False


_limits = _Limits()


@contextmanager
def limits(
    connect_s: float,
    end_by: float,
    *,
    read_s: float | None = None,
    guard: AddressGuard | None = None,
    fresh: bool = False,
) -> Iterator[None]:
    """Set the limits of what connections of the pool managers do in this thread.

    Args:
        connect_s: seconds to look up the host, to connect, and for the TLS handshake.
        end_by: when everything together ends, as a time of the monotonic clock.
        read_s: seconds to wait for a piece of the answer; None for no limit of its own.
        guard: which addresses may be connected to; None for all.
        fresh: whether a new connection is used.
    """
    _limits.connect_s, _limits.end_by, _limits.is_fresh = connect_s, end_by, fresh
    _limits.read_s, _limits.guard = read_s, guard
    _limits.is_reused = _limits.is_answered = False
    yield


def end_within(seconds: float) -> None:
    """Let the deadline of what this thread does pass within these seconds, until `limits` sets another."""
    _limits.end_by = min(_limits.end_by, SYSTEM_CLOCK.monotonic() + seconds)


def was_stale(*, has_timed_out: bool = False) -> bool:
    """Whether the last post in this thread used a connection of an earlier one, and nothing came or it timed out."""
    return _limits.is_reused and (has_timed_out or not _limits.is_answered)


def _left(by: float) -> float:
    """Seconds until the deadline, more than 0. Raises TimeoutError if it has passed."""
    left = by - SYSTEM_CLOCK.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


class _Socket(Protocol):
    """The part of a socket that is used here: TLS, gevent and eventlet each have a socket class of their own."""

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
        # The socket stays open as long as this file is open; http.client expects that.
        self._file = sock.makefile("rb", 0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s, read_s = _left(_limits.end_by), _limits.read_s
        self._socket.settimeout(left_s if read_s is None else min(left_s, read_s))
        read: int | None = self._file.readinto(buffer)
        _limits.is_answered = _limits.is_answered or bool(read)
        return read

    def close(self) -> None:
        self._file.close()
        super().close()


class _Answer(io.BufferedReader):
    """An answer without the interim ones (1xx) before it: http.client takes each of them but 100 for the answer."""

    _is_final = False

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        left = _LONGEST_INTERIM
        while not self._is_final and _INTERIM.match(line):
            while line not in (b"\r\n", b"\n", b""):
                left -= len(line)
                if left < 0:
                    raise HTTPException(f"interim answers of more than {_LONGEST_INTERIM} bytes")
                line = super().readline(_LONGEST_LINE)
            line = super().readline(size)
        self._is_final = True
        return line


class _TimedSocket:
    """A connected socket as urllib3 and http.client use it, with deadlines in place of time-outs."""

    def __init__(self, sock: _Socket) -> None:
        self._socket = sock
        self._unsent = bytearray()
        self.shutdown, self.fileno, self.close = sock.shutdown, sock.fileno, sock.close

    def settimeout(self, value: float | None) -> None:
        """Do nothing: urllib3 sets the time-out of a phase here."""

    def sendall(self, data: bytes) -> None:
        """Send, but what is short only with what follows it: urllib3 sends head and body one by one."""
        if len(self._unsent) + len(data) <= _TOGETHER_BYTES:
            self._unsent += data
            return
        self.flush()
        self._send(data)

    def flush(self) -> None:
        """Send what is left."""
        unsent, self._unsent = self._unsent, bytearray()
        if unsent:
            self._send(unsent)

    def _send(self, data: bytes | bytearray) -> None:
        rest = memoryview(data)
        while rest:
            self._socket.settimeout(_left(_limits.end_by))
            rest = rest[self._socket.send(rest[:_PIECE_BYTES]) :]

    def makefile(self, *_: Any) -> io.BufferedReader:
        return _Answer(_Reader(self._socket))


# Errors show the names of these classes.


class HTTPConnection(connection.HTTPConnection):
    _has_posted = False

    def _new_conn(self) -> socket.socket:
        """Connect to the first address of the host that accepts.

        All addresses share one deadline. Each gets an equal part of what is left: the first may be an IPv6 address to
        which no packet comes through, and must not use up the time of the IPv4 address behind it.
        """
        _limits.connect_by = min(SYSTEM_CLOCK.monotonic() + _limits.connect_s, _limits.end_by)
        try:
            found = look_up(self._dns_host.strip("[]"), self.port, _left(_limits.connect_by))
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        if _limits.guard is not None:
            found = _limits.guard.allowed_of(self.host, found)
        cause: OSError | None = None
        for number, (*kind, _, address) in enumerate(found):
            try:
                return self._connect_to(address, _left(_limits.connect_by) / (len(found) - number), *kind)
            except OSError as error:
                cause = cause or error
        raise NewConnectionError(self, f"Failed to establish a new connection: {cause}") from cause

    def _connect_to(self, address: Any, timeout_s: float, *kind: int) -> socket.socket:
        sock = socket.socket(*kind)
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(timeout_s)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def connect(self) -> None:
        super().connect()
        self.sock = _TimedSocket(self.sock)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _limits.is_reused, self._has_posted = self._has_posted, True
        super().request(*args, **kwargs)
        if isinstance(self.sock, _TimedSocket):
            self.sock.flush()

    def close(self) -> None:
        self._has_posted = False
        super().close()


class HTTPSConnection(HTTPConnection, connection.HTTPSConnection):
    _watch: threading.Timer | None = None

    def _connect_to(self, address: Any, timeout_s: float, *kind: int) -> socket.socket:
        sock = super()._connect_to(address, timeout_s, *kind)
        # The socket's time-out bounds the whole TLS handshake, but with gevent and eventlet only each wait within it.
        # So a timer shuts the connection down. TLS takes over `sock`, therefore the timer has a duplicate of it.
        self._twin = sock.dup()
        self._watch = threading.Timer(max(0, _limits.connect_by - SYSTEM_CLOCK.monotonic()), _shut_down, [self._twin])
        self._watch.daemon = True
        self._watch.start()
        return sock

    def _tunnel(self) -> None:
        super()._tunnel()
        # To http.client, an answer that the timer has cut off looks like one that has ended.
        _left(_limits.connect_by)

    def connect(self) -> None:
        try:
            super().connect()
        except (OSError, HTTPException) as error:
            if SYSTEM_CLOCK.monotonic() >= _limits.connect_by:
                self.close()
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


class _Pool(urllib3.HTTPConnectionPool):
    def _get_conn(self, timeout: float | None = None) -> Any:
        conn = super()._get_conn(timeout)
        if _limits.is_fresh:
            conn.close()
        return conn


class HTTPConnectionPool(_Pool):
    ConnectionCls = HTTPConnection


class HTTPSConnectionPool(_Pool, urllib3.HTTPSConnectionPool):
    ConnectionCls = HTTPSConnection

    def _validate_conn(self, conn: Any) -> None:
        # urllib3's own warns at each request to a host whose certificate is not verified. That was chosen.
        if conn.is_closed:
            conn.connect()
