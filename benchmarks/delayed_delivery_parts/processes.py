"""Reads the memory and the processor time of a worker's processes from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.processes import Process


def members(leader: int) -> list[int]:
    """Return the ids of a process and its children. Each process of the benchmark leads its own session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
    return found


def memory_mb(process: Process) -> tuple[float, float]:
    """Return the resident memory and the proportional memory of all its processes, in MB.

    The first counts memory that forked processes share once for each process. The second counts it once in all.
    """
    rss = pss = 0
    for pid in members(process.pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            rss += sum(int(kb) for kb in re.findall(r"^Rss:\s+(\d+) kB", text, re.MULTILINE))
            pss += sum(int(kb) for kb in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE))
    return round(rss / 1024, 1), round(pss / 1024, 1)


def cpu_s(leader: int) -> float:
    """Return the processor time of a process and its children, in seconds."""
    nanoseconds = 0
    for pid in members(leader):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def settle(read: Callable[[], float], within: float, timeout: float = 20.0) -> float:
    """Read until two readings, half a second apart, differ by at most `within`. Return the last one."""
    deadline = time.monotonic() + timeout
    before = read()
    while True:
        time.sleep(0.5)
        now = read()
        if abs(now - before) <= within or time.monotonic() > deadline:
            return now
        before = now
