"""The clock: the only module that imports `time`. Everything else takes a `Clock`."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What rebound asks of a clock."""

    def now_ms(self) -> int:
        """The time of day in Unix milliseconds."""

    def monotonic(self) -> float:
        """Seconds since some fixed moment; it never jumps."""

    def sleep(self, seconds: float) -> None:
        """Wait; other greenlets run meanwhile."""


class SystemClock:
    """The clock of the operating system."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
