"""A child process of the demo: the worker, the consumer or Flower."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Mapping, Sequence
from subprocess import Popen

from ..embedded import end_group, spawn

#: Variables of the user's shell with these prefixes would change how the demo's parts behave.
_FOREIGN = ("CELERY_", "REBOUND_", "FLOWER_")


class Child:
    """A program that runs until `stop()`. On Linux it also ends with this process, even if SIGKILL ends that.

    Args:
        name: what messages call it, with its article.
        command: the program and its arguments.
        environment: variables that are added to those of this process.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN)}
        # The file has no name, so nothing is left of it even after SIGKILL.
        self._log = tempfile.TemporaryFile(prefix="rebound-demo-")  # noqa: SIM115 - open as long as the child runs
        try:
            self._process: Popen[bytes] = spawn(command, {**inherited, **environment}, self._log)
        except BaseException:
            self._log.close()
            raise
        self._stopped = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What the program has written so far."""
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def how_it_ended(self) -> str:
        """One line that says how it ended, followed by the last lines that it wrote."""
        status = self._process.poll()
        how = f"ended with status {status}"
        if status is not None and status < 0:
            how = f"was ended by {signal.Signals(-status).name}"
        tail = "\n".join(f"    {line}" for line in self.log.strip().splitlines()[-5:])
        return f"{self.name} (pid {self.pid}) {how}" + (f"; its last lines:\n{tail}" if tail else "")

    def stop(self, deadline_s: float) -> str | None:
        """Send SIGTERM, wait, and send SIGKILL after the deadline. Returns a text if it had to be killed, else None."""
        if self._stopped:
            return None
        self._stopped = True
        was_running = self.is_running
        end_group(self._process, signal.SIGTERM, deadline_s)
        complaint = None
        if was_running and self._process.returncode == -signal.SIGKILL:
            complaint = f"{self.name} did not stop within {deadline_s:g} s and was killed"
        self._log.close()
        return complaint
