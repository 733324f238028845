"""Spreads the letters of a job over its steps, so that its rate holds whichever workers make them."""

from __future__ import annotations

from typing import NamedTuple

#: A step stores the letters of so many seconds at once, and at least one.
_STEP_S = 0.25
#: What was not stored in the last so many seconds may be stored later.
_SAVED_S = 0.5


class Pace(NamedTuple):
    """A rate, and until when all letters so far are paid for.

    Attributes:
        rate: letters a second.
        paid_ms: the time at which the next letter could be stored, in Unix milliseconds. 0: none was stored yet.
    """

    rate: float
    paid_ms: int

    def allowed(self, now_ms: int) -> int:
        """How many letters may be stored now."""
        if self.paid_ms == 0:
            return max(1, int(self.rate * _STEP_S))
        saved = (now_ms - self.paid_ms) / 1000 * self.rate + 1
        return int(max(0.0, min(saved, max(1.0, self.rate * _SAVED_S))) + 1e-9)

    def after(self, stored: int, now_ms: int) -> Pace:
        """The pace once so many letters more are stored."""
        start_ms = max(self.paid_ms, now_ms - round(1000 * _SAVED_S)) if self.paid_ms else now_ms
        return self._replace(paid_ms=round(start_ms + stored * 1000 / self.rate))

    def wait_ms(self, now_ms: int) -> int:
        """How long the next step should wait, in milliseconds: until it has letters enough."""
        enough = max(1.0, self.rate * _STEP_S)
        return max(0, round(self.paid_ms + (enough - 1) * 1000 / self.rate - now_ms))
