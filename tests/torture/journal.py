"""Journals: each process appends its events to a file of its own at once, so that they survive a SIGKILL."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The directory of the journals, and the name of this process.
DIRECTORY = "TORTURE_DIRECTORY"
PART = "TORTURE_PART"


class Journal:
    """Appends lines of JSON to this process's own file. Threads may share it."""

    def __init__(self, kind: str, directory: Path | None = None) -> None:
        directory = Path(os.environ[DIRECTORY]) if directory is None else directory
        name = f"{kind}-{os.environ.get(PART, 'driver')}-{os.getpid()}-{time.time_ns():x}.jsonl"
        # Each line is one write into the page cache, so it survives the end of the process.
        self._file = os.open(directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **fields: Any) -> None:
        os.write(self._file, json.dumps(fields).encode() + b"\n")


class JournalReader:
    """Reads the journals of one kind from all processes while they grow."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._kind = kind
        self._directory = directory
        self._read: dict[Path, int] = {}

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the new lines since the last call. A line that a SIGKILL has cut is not read."""
        for path in sorted(self._directory.glob(f"{self._kind}-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read[path] = self._read.get(path, 0) + len(line)
                    yield json.loads(line)
