"""The notes of the workers in a shared file: the due time of each event, and its actual time."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterable
from pathlib import Path

#: A line of the file: the due time and the actual time, in Unix seconds.
NOTE = struct.Struct("<dd")


@functools.cache
def _notes_file() -> int:
    return os.open(os.environ["BENCH_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(pairs: Iterable[tuple[float, float]]) -> None:
    """Append pairs of due time and actual time. One write appends all, so processes and threads can share the file."""
    os.write(_notes_file(), b"".join(NOTE.pack(*pair) for pair in pairs))


def read_notes(path: Path) -> list[tuple[float, float]]:
    return [(due, at) for due, at in NOTE.iter_unpack(path.read_bytes())] if path.exists() else []
