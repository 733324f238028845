"""What happened, written down at once: a file for each process, which outlives its SIGKILL."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Where the processes of a run write, and what each is called.
DIRECTORY = "TORTURE_DIRECTORY"
PART = "TORTURE_PART"


class Journal:
    """Appends lines of JSON to a file of this process' own; safe for threads."""

    def __init__(self, kind: str, directory: Path | None = None) -> None:
        directory = Path(os.environ[DIRECTORY]) if directory is None else directory
        name = f"{kind}-{os.environ.get(PART, 'driver')}-{os.getpid()}-{time.time_ns():x}.jsonl"
        # One write a line, into the page cache: no process' end takes it away again.
        self._file = os.open(directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **fields: Any) -> None:
        os.write(self._file, json.dumps(fields).encode() + b"\n")


class Tail:
    """Reads what all processes have written to their journals of one kind, as it grows."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._kind = kind
        self._directory = directory
        self._read: dict[Path, int] = {}

    def lines(self) -> Iterator[dict[str, Any]]:
        """What is new since the last call. A line that a SIGKILL has cut short stays unread."""
        for path in sorted(self._directory.glob(f"{self._kind}-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    yield json.loads(line)
