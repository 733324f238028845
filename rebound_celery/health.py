"""Whether a process is well, in a small file that a probe can read; see `docs/operations.md`."""

from __future__ import annotations

import json
import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path

from .clock import SYSTEM_CLOCK, Clock

STARTING = "starting"
OK = "ok"
#: A server is away. Starting the process anew would not bring it back.
WAITING = "waiting"
STOPPING = "stopping"
#: The process does not do its work, and what it tried did not help: it should be started anew.
STALLED = "stalled"

logger = logging.getLogger(__name__)


class HealthFile:
    """A file that is rewritten as often as its process says that it is well; each time as a whole.

    Its time of change is the last time that the process was well: a stalled one, or a dead one, lets it grow old. Its
    content is a JSON object: `state` (one of this module's words), `since` (when that began), `detail`, and `pid`.

    Args:
        path: None for no file; everything is then done in vain.
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
        """Say how the process is. A file that cannot be written is logged once, and never the process' end."""
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
        # Beside the file, and then in its place: who reads it never sees half of it.
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(text, "utf-8")
        os.utime(beside, (self._well_at, self._well_at))
        beside.replace(path)

    def remove(self) -> None:
        """The process ends in order: there is nothing more to say."""
        if self._path is None:
            return
        with self._lock:
            self._removed = True
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("the health file %s cannot be removed: %s", self._path, error)
