"""Limits the fetching: pauses and resumes partitions by the number of records in memory.

A crash repeats the records that are handled and not committed. A consumer that takes over a backlog handles thousands
of records before Kafka has answered its first commit. So after an assignment it begins with few records, and with each
commit that is answered it may have a quarter more.
"""

from __future__ import annotations

from collections.abc import Collection

from kafka import KafkaConsumer

from ..clock import SYSTEM_CLOCK, Clock
from .offset_tracker import OffsetTracker
from .partition_tracker import Partition

#: How many records one partition may have above its low-water mark, as a multiple of max_in_flight. A partition with
#: more is paused. The records behind a hung handler may be done, but the commit cannot pass the record that hangs.
MAX_SPAN_FACTOR = 10

#: The limit at the beginning, in records: for each handler thread, and at least.
_FIRST_FOR_THREAD = 2
_FIRST_LEAST = 8

#: With a longer time between commits, in seconds, there is no limit at the beginning: its user accepts more repeats.
_LONG_INTERVAL_S = 0.1

#: The beginning ends after this time, in seconds. Otherwise a handler that hangs could block all other keys: the first
#: records may all have its key.
_LONGEST_BEGINNING_S = 5.0


class Backpressure:
    """Keeps the number of records in memory at `limit` or below, and leaves room for every partition.

    Args:
        consumer: the KafkaConsumer of the group.
        offset_tracker: the tracker of the records.
        limit: the largest number of records in memory.
        concurrency: the number of handler threads.
        commit_interval_s: the least time between two commits, in seconds.
        clock: tells the time.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        offset_tracker: OffsetTracker,
        limit: int,
        concurrency: int,
        commit_interval_s: float,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._consumer = consumer
        self._offset_tracker = offset_tracker
        self._limit = limit
        first = max(_FIRST_LEAST, _FIRST_FOR_THREAD * concurrency)
        self._first = first if first < limit and commit_interval_s <= _LONG_INTERVAL_S else None
        #: The largest number of records in memory, or done and not committed, at the beginning; None afterwards.
        self._beginning: int | None = self._first
        self._clock = clock
        self._begun = clock.monotonic()
        #: Whether all partitions are paused.
        self.is_full = False
        #: Whether they are paused only because records are not committed yet.
        self.awaits_commit = False
        #: The largest number of records for the next poll.
        self.room = 1
        #: The partitions that are paused because of their own records.
        self._over_limit: set[Partition] = set()

    def begin(self) -> None:
        """Begin with few records. Call this when partitions are assigned."""
        self._beginning = self._first
        self._begun = self._clock.monotonic()

    def commit_answered(self) -> None:
        """Allow a quarter more records, if the consumer is still at the beginning."""
        if self._beginning is not None:
            more = self._beginning * 5 // 4
            self._beginning = more if more < self._limit else None

    def regulate(self, *, closed: bool, kept_paused: Collection[tuple[str, int]] = ()) -> None:
        """Pause the partitions that have enough records, and resume the partitions that have room again.

        Args:
            closed: pause all partitions.
            kept_paused: partitions that are paused in any case.
        """
        limit, over_limit = self._limit, self._over_limit
        loads = self._offset_tracker.loads()
        total = sum(load.in_flight for load in loads.values())
        was_full = self.is_full and not self.awaits_commit
        self.is_full = closed or (total > limit // 2 if was_full else total >= limit)
        room = min(limit - total, self._consumer.config["max_poll_records"])
        self.awaits_commit = False
        if self._beginning is not None and self._clock.monotonic() >= self._begun + _LONGEST_BEGINNING_S:
            self._beginning = None
        if self._beginning is not None and not self.is_full:
            room = min(room, self._beginning - total - sum(load.uncommitted for load in loads.values()))
            self.is_full = self.awaits_commit = room <= 0
        self.room = max(1, room)
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
