"""The app `scheduled` in a worker that stops claiming, in the way that FAULT says; its watchdog is in a hurry."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import signals

from rebound_celery.schedule.port import Claimed
from rebound_celery.schedule.transport.claimer import Claimer
from rebound_celery.schedule.transport.credit import LEASED_QUEUE_CREDIT
from rebound_celery.schedule.worker import watchdog
from tests.acceptance.apps.scheduled import app as app

FAULT = os.environ.get("FAULT")

watchdog.LOOK_S = 0.5
watchdog.PATIENCE_S = 2.5


def asleep(channel: Any) -> None:
    """The timer is lost, and nobody looks at the queue for hours."""

    def fall_asleep() -> None:
        channel.connection.cycle.disarm()
        for queue in channel.active_queues:
            channel.claimer._queue(queue).claim_at = time.monotonic() + 10_000

    channel.connection.cycle.soon(fall_asleep)


def first_channel(channel: Any) -> None:
    """Whatever is wrong with it, another one does not have it."""
    channel.claimer.claim_due = lambda: 0


def for_good(channel: Any) -> None:
    Claimer.claim_due = lambda self: 0


def leak(channel: Any) -> None:
    """Leases on messages that nobody has; they take all the room."""
    store = channel.leases.store_of(channel.keys_of("celery"))
    for number in range(LEASED_QUEUE_CREDIT):
        channel.leases.hold(store, [(Claimed(f"leaked-{number}", b"", "", 0, 0), "token", "gone")])


def raises(channel: Any) -> None:
    claim, times = Claimer.claim, iter(range(2))

    def raising(self: Claimer, queue: str, limit: int) -> Any:
        if next(times, None) is not None:
            raise RuntimeError("what nobody thought of")
        return claim(self, queue, limit)

    Claimer.claim = raising


FAULTS = {fault.__name__: fault for fault in (asleep, first_channel, for_good, leak, raises)}


@signals.worker_ready.connect
def break_it(sender: Any, **_: Any) -> None:
    if FAULT in FAULTS:
        FAULTS[FAULT](sender.task_consumer.channel)
