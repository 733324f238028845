"""A clock that stands still until a test moves it."""

from __future__ import annotations

from ..clock import SYSTEM_CLOCK


class ManualClock:
    """A clock that only `advance` and `sleep` move.

    Args:
        now_ms: the time at which it begins, in Unix milliseconds; None means now.
    """

    def __init__(self, now_ms: int | None = None) -> None:
        self._began_ms = self._now_ms = SYSTEM_CLOCK.now_ms() if now_ms is None else now_ms

    def now_ms(self) -> int:
        """Return the time of day in Unix milliseconds."""
        return self._now_ms

    def monotonic(self) -> float:
        """Return the seconds since it began."""
        return (self._now_ms - self._began_ms) / 1000

    def sleep(self, seconds: float) -> None:
        """Move the clock by `seconds` and return at once."""
        self.move_to(self._now_ms + round(seconds * 1000))

    def move_to(self, now_ms: int) -> None:
        """Move the clock to a later time, in Unix milliseconds. It never goes back."""
        self._now_ms = max(self._now_ms, now_ms)
