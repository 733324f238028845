"""Stores messages that take the place of dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from ..message import Message
from ..message.encryption import KeyRing
from ..schedule.port import Revival, Schedule
from .delivery import PRIORITY_NORMAL, Delivery
from .entries import entries_of
from .lanes import RatedLanes
from .rates import Rates

#: A message; the id of the Celery task that delivers it; and the last three fields of its `Revival`.
Replaced = tuple[Message, str, str | None, str, int]


def revive(
    schedule: Schedule,
    replaced: Sequence[Replaced],
    lanes: RatedLanes,
    keys: KeyRing,
    now_ms: int,
    *,
    again: bool = False,
) -> list[bool]:
    """Store messages in the places of dead letters, due now; returns which were stored.

    Args:
        schedule: the schedule of rebound's queue.
        replaced: the messages.
        lanes: the lanes of messages, and their rates.
        keys: the keys that encrypt stored forms.
        now_ms: the time, in Unix milliseconds.
        again: whether those are stored that were stored before.
    """
    deliveries = [Delivery(message, task_id, now_ms, PRIORITY_NORMAL) for message, task_id, *_ in replaced]
    entries = entries_of(deliveries, None, Rates(lanes).lanes_of(deliveries, schedule), keys)
    revivals = [
        Revival(entry, dead_id, series, number)
        for entry, (_, _, dead_id, series, number) in zip(entries, replaced, strict=True)
    ]
    return schedule.revive(revivals, again=again)
