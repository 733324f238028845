"""Checks every few seconds whether the consumer works, and writes the result to its health file."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kafka import KafkaConsumer

from .. import health
from ..clock import SYSTEM_CLOCK, Clock
from ..health import HealthFile
from .offset_tracker import OffsetTracker
from .stall_detector import FetchState, StallDetector

#: The time between two checks, in seconds.
CHECK_INTERVAL_S = 3.0


class HealthReporter:
    """Reports the state of a consumer. It stays the same when the KafkaConsumer is replaced.

    Args:
        file: the consumer's health file.
    """

    def __init__(self, file: HealthFile, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._file = file
        self._clock = clock
        self._stall_detector = StallDetector(clock=clock)
        self._next_check = 0.0

    def check(
        self,
        consumer: KafkaConsumer,
        offset_tracker: OffsetTracker,
        unknown_positions: Collection[Any],
        outage: str | None,
        note: str = "",
    ) -> bool:
        """Check and report, if the time for it has come. Call this between two polls.

        Args:
            consumer: the current KafkaConsumer.
            offset_tracker: the tracker of the records in flight.
            unknown_positions: partitions whose committed offset is not known yet.
            outage: the reason why the consumer waits; None if it does not wait.
            note: the detail to report of a consumer that works; empty for none.

        Returns:
            whether the KafkaConsumer must be replaced by a new one.
        """
        now = self._clock.monotonic()
        if now < self._next_check:
            return False
        if outage is not None or now - self._next_check > 2 * CHECK_INTERVAL_S:
            # Kafka was not polled, because of the outage or because the loop was delayed. So no record could come.
            self._stall_detector.reset()
        self._next_check = now + CHECK_INTERVAL_S
        if outage is not None:
            self._file.report(health.WAITING, outage)
            return False
        busy = (partition for partition, load in offset_tracker.loads().items() if load.in_flight)
        found = self._stall_detector.check(consumer, {*busy, *consumer.paused(), *unknown_positions})
        if found is FetchState.STALLED:
            self._file.report(health.STALLED, self._stall_detector.detail)
        else:
            self._file.report(health.OK, note if consumer.assignment() else "no partition is assigned")
        return found is FetchState.REPLACE

    def report_stopping(self) -> None:
        """Report that the consumer is stopping, if the time for a report has come."""
        now = self._clock.monotonic()
        if now >= self._next_check:
            self._next_check = now + CHECK_INTERVAL_S
            self._file.report(health.STOPPING)
