"""What a worker's processes take, read from /proc (Linux)."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.processes import Process


def members(leader: int) -> list[int]:
    """The ids of a process and its children: each process of the benchmark leads a session of its own."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
    return found


def memory_mb(process: Process) -> tuple[float, float]:
    """Its resident memory, and its proportional share of it, over all its processes in MB.

    The first counts what a fork shares once for each process; the second counts it once.
    """
    rss = pss = 0
    for pid in members(process.pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            rss += sum(int(kb) for kb in re.findall(r"^Rss:\s+(\d+) kB", text, re.MULTILINE))
            pss += sum(int(kb) for kb in re.findall(r"^Pss:\s+(\d+) kB", text, re.MULTILINE))
    return round(rss / 1024, 1), round(pss / 1024, 1)


def cpu_s(leader: int) -> float:
    """Seconds of processor time that the threads of a process and of its children have had."""
    nanoseconds = 0
    for pid in members(leader):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                nanoseconds += int((task / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def settle(read: Callable[[], float], within: float, timeout: float = 20.0) -> float:
    """Read until two readings, half a second apart, differ by no more than `within`; returns the last."""
    deadline = time.monotonic() + timeout
    before = read()
    while True:
        time.sleep(0.5)
        now = read()
        if abs(now - before) <= within or time.monotonic() > deadline:
            return now
        before = now
