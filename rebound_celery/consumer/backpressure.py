"""Limits the fetching: pauses and resumes partitions by the number of records in memory."""

from __future__ import annotations

from collections.abc import Collection

from kafka import KafkaConsumer

from .offset_tracker import OffsetTracker
from .partition_tracker import Partition

#: How many records one partition may have above its low-water mark, as a multiple of max_in_flight. A partition with
#: more is paused. The records behind a hung handler may be done, but the commit cannot pass the record that hangs.
MAX_SPAN_FACTOR = 10


class Backpressure:
    """Keeps the number of records in memory at `limit` or below, and leaves room for every partition."""

    def __init__(self, consumer: KafkaConsumer, offset_tracker: OffsetTracker, limit: int) -> None:
        self._consumer = consumer
        self._offset_tracker = offset_tracker
        self._limit = limit
        #: Whether all partitions are paused.
        self.is_full = False
        #: The largest number of records for the next poll.
        self.room = 1
        #: The partitions that are paused because of their own records.
        self._over_limit: set[Partition] = set()

    def regulate(self, *, closed: bool, kept_paused: Collection[tuple[str, int]] = ()) -> None:
        """Pause the partitions that have enough records, and resume the partitions that have room again.

        Args:
            closed: pause all partitions.
            kept_paused: partitions that are paused in any case.
        """
        limit, over_limit = self._limit, self._over_limit
        loads = self._offset_tracker.loads()
        total = sum(load.in_flight for load in loads.values())
        self.is_full = closed or (total > limit // 2 if self.is_full else total >= limit)
        self.room = max(1, min(limit - total, self._consumer.config["max_poll_records"]))
        assigned = self._consumer.assignment()
        # One partition with a hung key must leave room for the others.
        share = limit if len(assigned) < 2 else max(limit * 3 // 4, 1)
        self._over_limit = {
            partition
            for partition, load in loads.items()
            if (load.in_flight > share // 2 if partition in over_limit else load.in_flight >= share)
            or load.span >= limit * (MAX_SPAN_FACTOR // 2 if partition in over_limit else MAX_SPAN_FACTOR)
        }
        # kafka-python takes only partitions of its own type, so these are elements of `assigned`.
        wanted = {
            partition
            for partition in assigned
            if self.is_full or partition in self._over_limit or partition in kept_paused
        }
        paused = self._consumer.paused()
        if to_pause := wanted - paused:
            self._consumer.pause(*to_pause)
        if to_resume := paused - wanted:
            self._consumer.resume(*to_resume)
