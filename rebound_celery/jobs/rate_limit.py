"""Spreads the letters of a job over its steps, so that its rate holds whichever workers make them."""

from __future__ import annotations

from typing import NamedTuple

#: A step stores the letters of so many seconds at once, and at least one.
_STEP_S = 0.25
#: A job that was slower may store the letters of so many seconds at once.
_BURST_S = 0.5


class RateLimit(NamedTuple):
    """A rate, and when the next letter may be stored.

    Attributes:
        rate: letters a second.
        next_ms: the time at which the next letter may be stored, in Unix milliseconds. 0: none was stored yet.
    """

    rate: float
    next_ms: int

    def allowed(self, now_ms: int) -> int:
        """How many letters may be stored now."""
        if self.next_ms == 0:
            return max(1, int(self.rate * _STEP_S))
        most = (now_ms - self.next_ms) / 1000 * self.rate + 1
        return int(max(0.0, min(most, max(1.0, self.rate * _BURST_S))) + 1e-9)

    def after(self, stored: int, now_ms: int) -> RateLimit:
        """The limit once so many letters more are stored."""
        start_ms = max(self.next_ms, now_ms - round(1000 * _BURST_S)) if self.next_ms else now_ms
        return self._replace(next_ms=round(start_ms + stored * 1000 / self.rate))

    def wait_ms(self, now_ms: int) -> int:
        """How long the next step should wait, in milliseconds: until it may store enough letters."""
        enough = max(1.0, self.rate * _STEP_S)
        return max(0, round(self.next_ms + (enough - 1) * 1000 / self.rate - now_ms))
