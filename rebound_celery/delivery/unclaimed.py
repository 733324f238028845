"""Warns whoever schedules retries when no worker claims them."""

from __future__ import annotations

import logging

from ..clock import Clock
from ..schedule.port import Schedule

#: Seconds between two looks of a process.
LOOK_EVERY_S = 30.0

#: Seconds after which it is no chance that nobody has claimed what is due.
PATIENCE_S = 60.0

#: Seconds between two warnings while it lasts.
WARN_EVERY_S = 600.0

logger = logging.getLogger(__name__)


class UnclaimedWatch:
    """Looks from time to time whether messages are due that no worker claims, and logs a warning then.

    Without it, a program whose workers are gone, or consume other queues, stores retries and hears nothing.

    Args:
        clock: tells the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next_look = 0.0
        self._next_warning = 0.0

    @property
    def is_time(self) -> bool:
        """Whether the next look is to be made."""
        return self._clock.monotonic() >= self._next_look

    def look(self, schedule: Schedule) -> bool:
        """Ask Redis, and log a warning if nobody has claimed what is due.

        Returns whether Redis has answered. It does not raise: who calls it wants something else.
        """
        now = self._clock.monotonic()
        self._next_look = now + LOOK_EVERY_S
        try:
            unclaimed_s = schedule.unclaimed_ms() / 1000
            if unclaimed_s >= PATIENCE_S and now >= self._next_warning:
                self._warn(schedule.queue, schedule.counts().waiting, unclaimed_s)
                self._next_warning = now + WARN_EVERY_S
        except Exception as error:  # noqa: BLE001 - also a right that the user of Redis does not have
            logger.debug("whether messages are claimed cannot be seen: %r", error)
            return False
        return True

    def _warn(self, queue: str, waiting: int, unclaimed_s: float) -> None:
        logger.warning(
            "%d messages wait in the queue %s; some are due, and no worker has claimed any for %.0f s; start a worker "
            "that consumes it: celery -A <app> worker -Q %s",
            waiting,
            queue,
            unclaimed_s,
            queue,
            extra={"event": "unclaimed", "queue": queue, "waiting": waiting, "unclaimed_s": round(unclaimed_s, 1)},
        )
