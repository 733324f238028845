"""Stores messages that take the place of dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..clock import Clock
from ..message import Message
from ..message.encryption import KeyRing
from ..schedule.port import JobClaim, Revival, Schedule
from .delivery import PRIORITY_NORMAL, Delivery
from .entries import entries_of
from .lanes import RatedLanes
from .rates import Rates

#: A message; the id of the Celery task that delivers it; and the last four fields of its `Revival`.
Replaced = tuple[Message, str, str | None, str, int, str]


class Reviver:
    """Stores messages in the places of dead letters.

    Args:
        lanes: the lanes of messages, and their rates.
        keys: returns the keys that encrypt stored forms.
        clock: tells the time.
    """

    def __init__(self, lanes: RatedLanes, keys: Callable[[], KeyRing], clock: Clock) -> None:
        # Kept from one call to the next: a replay makes a call for each batch.
        self._rates = Rates(lanes, clock)
        self._keys = keys
        self._clock = clock

    def revive(
        self,
        schedule: Schedule,
        replaced: Sequence[Replaced],
        *,
        again: bool = False,
        claim: JobClaim | None = None,
    ) -> list[bool]:
        """Store messages in the places of dead letters, due now; returns which were stored.

        Args:
            schedule: the schedule of rebound's queue.
            replaced: the messages.
            again: whether those are stored that were stored before.
            claim: the step of the job that does it; None where no job does.

        Raises:
            StepOverError: if that step is over.
        """
        now_ms = self._clock.now_ms()
        deliveries = [Delivery(message, task_id, now_ms, PRIORITY_NORMAL) for message, task_id, *_ in replaced]
        entries = entries_of(deliveries, None, self._rates.lanes_of(deliveries, schedule), self._keys())
        revivals = [
            Revival(entry, dead_id, series, number, counter)
            for entry, (_, _, dead_id, series, number, counter) in zip(entries, replaced, strict=True)
        ]
        return schedule.revive(revivals, again=again, claim=claim)
