"""What workers write down of when something was due and when it happened: a file that all of them share."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterable
from pathlib import Path

#: A line of the file of notes: when something was due and when it happened, in Unix seconds.
NOTE = struct.Struct("<dd")


@functools.cache
def _notes_file() -> int:
    return os.open(os.environ["BENCH_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(pairs: Iterable[tuple[float, float]]) -> None:
    """Write down (due, happened); one append, so that processes and threads can share the file."""
    os.write(_notes_file(), b"".join(NOTE.pack(*pair) for pair in pairs))


def read_notes(path: Path) -> list[tuple[float, float]]:
    return [(due, at) for due, at in NOTE.iter_unpack(path.read_bytes())] if path.exists() else []
