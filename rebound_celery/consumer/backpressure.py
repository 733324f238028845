"""How much is fetched: pauses and resumes partitions by what is in memory."""

from __future__ import annotations

from collections.abc import Collection

from kafka import KafkaConsumer

from .offset_tracker import OffsetTracker, Partition

#: Uncommitted records that one partition may have, as a multiple of max_in_flight, before it alone is paused: what lies
#: behind a hung handler is done, but cannot be committed, and would all be done again after a crash.
MAX_SPAN_FACTOR = 10


class Backpressure:
    """Keeps the records in memory at `limit` or below, and one partition from taking all the room."""

    def __init__(self, consumer: KafkaConsumer, offset_tracker: OffsetTracker, limit: int) -> None:
        self._consumer = consumer
        self._offset_tracker = offset_tracker
        self._limit = limit
        #: All partitions are paused.
        self.is_full = False
        #: How many records the next poll may bring.
        self.room = 1
        #: Partitions that are paused for what they hold themselves.
        self._narrow: set[Partition] = set()

    def regulate(self, *, closed: bool, standing: Collection[Partition] = ()) -> None:
        """Pause what has enough and what is `standing`, resume what has room again; with `closed`, pause all."""
        limit, narrow = self._limit, self._narrow
        loads = self._offset_tracker.loads()
        total = sum(load.in_flight for load in loads.values())
        self.is_full = closed or (total > limit // 2 if self.is_full else total >= limit)
        self.room = max(1, min(limit - total, self._consumer.config["max_poll_records"]))
        assigned = self._consumer.assignment()
        # One partition with a hung key must leave room for the others.
        share = limit if len(assigned) < 2 else max(limit * 3 // 4, 1)
        self._narrow = {
            partition
            for partition, load in loads.items()
            if (load.in_flight > share // 2 if partition in narrow else load.in_flight >= share)
            or load.span >= limit * (MAX_SPAN_FACTOR // 2 if partition in narrow else MAX_SPAN_FACTOR)
        }
        # Elements of `assigned`: kafka-python takes nothing but its own type.
        wanted = {
            partition for partition in assigned if self.is_full or partition in self._narrow or partition in standing
        }
        paused = self._consumer.paused()
        if to_pause := wanted - paused:
            self._consumer.pause(*to_pause)
        if to_resume := paused - wanted:
            self._consumer.resume(*to_resume)
