"""Looks every few seconds how the consumer is, and tells its health file."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from kafka import KafkaConsumer

from .. import health
from ..health import HealthFile
from .offset_tracker import OffsetTracker
from .stall_watch import LOOK_S, StallWatch, Verdict


class StallDetector:
    """One for all loops of a consumer: what was tried in one of them, the next one still knows.

    Args:
        file: is told how the consumer is.
    """

    def __init__(self, file: HealthFile) -> None:
        self._file = file
        self._watch = StallWatch()
        self._next_look = 0.0

    def look(
        self,
        consumer: KafkaConsumer,
        offset_tracker: OffsetTracker,
        stale_positions: Collection[Any],
        trouble: str | None,
        note: str = "",
    ) -> bool:
        """Look, if it is time; between two polls.

        Args:
            stale_positions: partitions whose position is being asked for.
            trouble: what this consumer waits for, or None.
            note: what is to be known of a consumer that is well otherwise, or the empty text.

        Returns:
            whether the KafkaConsumer is to be made anew.
        """
        now = time.monotonic()
        if now < self._next_look:
            return False
        if trouble is not None or now - self._next_look > 2 * LOOK_S:
            # What was not polled could yield nothing; and a loop that was held up has not polled either.
            self._watch.excuse()
        self._next_look = now + LOOK_S
        if trouble is not None:
            self._file.report(health.WAITING, trouble)
            return False
        busy = (partition for partition, load in offset_tracker.loads().items() if load.in_flight)
        found = self._watch.look(consumer, {*busy, *consumer.paused(), *stale_positions})
        if found is Verdict.STALLED:
            self._file.report(health.STALLED, self._watch.detail)
        else:
            self._file.report(health.OK, note if consumer.assignment() else "no partition is assigned")
        return found is Verdict.RENEW

    def stopping(self) -> None:
        """The consumer finishes what it has begun; as often as you like."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_S
            self._file.report(health.STOPPING)
