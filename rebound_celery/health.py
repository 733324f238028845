"""Writes the health of a process to a small file that a probe can read; see `docs/operations.md`."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from .clock import SYSTEM_CLOCK, Clock

STARTING = "starting"
OK = "ok"
#: Kafka or Redis does not answer. A restart of the process would not help.
WAITING = "waiting"
STOPPING = "stopping"
#: The process does not work, and its own remedies did not help. It should be restarted.
STALLED = "stalled"

logger = logging.getLogger(__name__)


class HealthFile:
    """A file that a process rewrites as a whole with each report of its state.

    The file's modification time is the last time at which the process was not stalled. So the file gets old when the
    process is stalled or dead. The content is a JSON object: `state` (a constant of this module), `since` (the start of
    this state), `detail` and `pid`.

    Args:
        path: the file; None writes no file.
        clock: the clock to read.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path = None if path is None else Path(path)
        self._clock = clock
        self._lock = threading.Lock()
        self._state: str | None = None
        self._since = ""
        self._well_at = clock.now_ms() / 1000
        self._failed = False
        self._removed = False

    def report(self, state: str, detail: str = "") -> None:
        """Report the state of the process. If the file cannot be written, log that once, and do not raise.

        Args:
            state: a constant of this module.
            detail: a text for the people who read the file; empty for none.
        """
        if self._path is None:
            return
        with self._lock:
            if self._removed:
                return
            now_s = self._clock.now_ms() / 1000
            if state != self._state:
                self._state, self._since = state, datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds")
            if state != STALLED:
                self._well_at = now_s
            content = {"state": state, "since": self._since, "detail": detail, "pid": os.getpid()}
            try:
                self._write(self._path, json.dumps(content) + "\n")
                self._failed = False
            except OSError as error:
                if not self._failed:
                    self._failed = True
                    logger.warning(
                        "the health file %s cannot be written, so probes will fail: %s",
                        self._path,
                        error,
                        extra={"event": "health_file_failed"},
                    )

    def _write(self, path: Path, text: str) -> None:
        # A reader must never see half of the content. So it is written to a second file, which then replaces the first.
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            beside.write_text(text, "utf-8")
            os.utime(beside, (self._well_at, self._well_at))
            beside.replace(path)
        except OSError:
            # On a full disk it is there, and empty. Nobody else would ever remove it.
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise

    def remove(self) -> None:
        """Remove the file when the process ends normally. Later reports do nothing."""
        if self._path is None:
            return
        with self._lock:
            self._removed = True
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("the health file %s cannot be removed: %s", self._path, error)
