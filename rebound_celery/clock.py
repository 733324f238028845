"""The clock of the package. No other module calls `time`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Clock(Protocol):
    """Tells the time and sleeps. Code that needs the time takes a clock, so that a test can pass its own."""

    def now_ms(self) -> int:
        """Return the time of day in Unix milliseconds."""

    def monotonic(self) -> float:
        """Return the seconds of a clock that never goes back. Use it to measure durations."""

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""


class SystemClock:
    """The computer's own clock."""

    __slots__ = ()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # The functions are looked up at each call, because gevent and tests replace them in the `time` module.
    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


#: The default of every `clock` parameter.
SYSTEM_CLOCK: Clock = SystemClock()


@contextmanager
def replaced_system_clock(clock: Clock) -> Iterator[None]:
    """Let SYSTEM_CLOCK tell the time of another clock, for tests: everything that was made with it follows."""
    own = {name: vars(SystemClock)[name] for name in ("now_ms", "monotonic", "sleep")}
    try:
        # On the class, so that a call costs nothing more when nothing is replaced.
        SystemClock.now_ms = staticmethod(clock.now_ms)  # type: ignore[method-assign, assignment]
        SystemClock.monotonic = staticmethod(clock.monotonic)  # type: ignore[method-assign, assignment]
        SystemClock.sleep = staticmethod(clock.sleep)  # type: ignore[method-assign, assignment]
        yield
    finally:
        for name, method in own.items():
            setattr(SystemClock, name, method)
