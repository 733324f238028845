"""Python processes under test: workers, consumers, commands."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rebound_celery.embedded import end_group, spawn
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

ROOT = Path(__file__).parents[1]


class Process:
    """`python *arguments` in a process group of its own, its output (stdout and stderr) kept in a file without a name.

    It starts at once, from the checkout's root, with this process' environment and what `env` changes in it (None takes
    a variable away). On Linux it dies with this process, whatever ends that.
    """

    def __init__(self, *arguments: str | Path, env: Mapping[str, str | None] | None = None) -> None:
        self.arguments = tuple(map(str, arguments))
        changed = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        environment = {name: value for name, value in changed.items() if value is not None}
        # Scripts outside of the checkout import the package and the tests' apps, too.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
        self._output = tempfile.TemporaryFile(prefix="rebound-")  # noqa: SIM115 - read until close()
        self._process = spawn([sys.executable, *self.arguments], environment, self._output, str(ROOT))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number if a signal ended it."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """All that it has written so far; readable after its end, too."""
        descriptor = self._output.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def wait_for_output(self, text: str, timeout: float = 20.0, *, times: int = 1) -> str:
        """Wait until `text` stands in the output (`times` times); AssertionError with the output's tail if not."""

        def said() -> bool:
            running = self.is_running  # asked first: what it wrote before it ended must still count
            if self.output.count(text) >= times:
                return True
            assert running, f"{self} ended with {self.returncode} before it said {text!r}\n{self.tail()}"
            return False

        wait_until(said, timeout=timeout, message=lambda: f"{self} says {text!r}\n{self.tail()}")
        return self.output

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for its end and return its status."""
        wait_until(lambda: not self.is_running, timeout=timeout, message=lambda: f"{self} ends\n{self.tail()}")
        return self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, not to its children."""
        self._process.send_signal(number)

    def stop(self, timeout: float = 15.0) -> int:
        """SIGTERM to the process; after the deadline SIGKILL to it, and then to what is left of its group."""
        end_group(self._process, signal.SIGTERM, timeout)
        return self._process.wait()

    def kill(self) -> None:
        """SIGKILL to the process and all its children at once, as when a container is killed."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 60) -> str:
        text = "\n".join(self.output.splitlines()[-lines:])
        return f"----- output of {self} -----\n{text}\n-----"

    def close(self) -> None:
        """Stop it and give its output away."""
        self.stop()
        self._output.close()

    def __str__(self) -> str:
        return " ".join(("python", *self.arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        if error is not None:
            error.add_note(self.tail())
        self._output.close()
