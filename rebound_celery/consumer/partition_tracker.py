"""Tracks the records of one partition from the poll that brought them to the commit that covers them."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..message import Record
from .offset_metadata import MAX_TEXT, OffsetRange, encode


class Partition(NamedTuple):
    """A topic's partition; equal to, and hashed as, kafka-python's TopicPartition."""

    topic: str
    partition: int


class Mark(NamedTuple):
    """What is committed for a partition.

    Attributes:
        offset: the low-water mark. Every record below it is done.
        metadata: which records above it are done; see `offset_metadata`.
    """

    offset: int
    metadata: str = ""


class PartitionTracker:
    """The records of one partition between fetch and commit. It has no lock of its own.

    Offsets come in fetch order. They have gaps where the log was compacted, and where it has transaction markers.

    Args:
        partition: the partition.
        committed: what Kafka has for the group; None if it has nothing.
        completed: offsets from `committed` on that an earlier owner of the partition has done, in order.
    """

    __slots__ = (
        "_completed",
        "_done",
        "_pending",
        "changes",
        "changes_committed",
        "changes_sent",
        "committed",
        "held",
        "in_flight",
        "last_started",
        "next_offset",
        "partition",
        "released",
        "revoked",
    )

    def __init__(
        self, partition: Partition, committed: Mark | None = None, completed: Sequence[OffsetRange] = ()
    ) -> None:
        self.partition = partition
        self._completed = deque(completed)
        #: Fetched and not below the low-water mark, in order.
        self._pending: deque[int] = deque()
        #: Those of `_pending` that are done.
        self._done: set[int] = set()
        #: Where fetching goes on: every offset below it was fetched, or has no record. None while it is not known.
        self.next_offset: int | None = None if committed is None else committed.offset
        #: How many records are fetched, and neither done nor abandoned.
        self.in_flight = 0
        #: The highest offset that a handler has started. KeyQueues writes it.
        self.last_started = -1
        #: What Kafka has confirmed; None if nothing.
        self.committed = committed
        #: How many changes there were, and how many of them the last commit and the last confirmed commit covered.
        self.changes = 1
        self.changes_sent = 0
        self.changes_committed = 0
        #: The partition is revoked, and it is not known yet whether it comes back.
        self.revoked = False
        #: The partition belongs to another consumer now. Nothing counts any more.
        self.released = False
        #: Jobs that were taken out of the key queues while the partition is revoked.
        self.held: list[Job] = []

    def add(self, offsets: Sequence[int]) -> Collection[int]:
        """Enter fetched records, in order; returns those that an earlier owner has done, which nobody must handle."""
        if not offsets:
            return ()
        self._pending.extend(offsets)
        self.next_offset = offsets[-1] + 1
        completed = self._take_completed(offsets) if self._completed else ()
        self.in_flight += len(offsets) - len(completed)
        return completed

    def _take_completed(self, offsets: Sequence[int]) -> Collection[int]:
        found, ranges = set(), self._completed
        for offset in offsets:
            while ranges and ranges[0][1] <= offset:
                ranges.popleft()
            if ranges and ranges[0][0] <= offset:
                found.add(offset)
        self._done |= found
        self.changes += len(found)
        return found

    def done(self, offset: int) -> None:
        """Enter that a record was handled, or that its retry is stored, or that it is not for this group."""
        self._done.add(offset)
        self.in_flight -= 1
        self.changes += 1

    def advance(self, position: int) -> None:
        """Enter that all records below `position` were fetched: the offsets before it may hold no records."""
        if self.next_offset is None or position > self.next_offset:
            self.next_offset = position
            self.changes += 1

    @property
    def span(self) -> int:
        """How many records lie between the low-water mark and the last one fetched."""
        return len(self._pending)

    def low_water(self) -> int | None:
        """Return the offset to commit: every record below it is done. None while no position is known."""
        pending, done = self._pending, self._done
        while pending and pending[0] in done:
            done.discard(pending.popleft())
        return pending[0] if pending else self.next_offset

    def mark(self, max_text: int = MAX_TEXT) -> Mark | None:
        """Return what to commit; None while no position is known.

        Args:
            max_text: the longest metadata, in characters.
        """
        offset = self.low_water()
        if offset is None:
            return None
        ahead = self._done or self._completed
        return Mark(offset, encode(offset, self._done_ranges(), max_text) if ahead else "")

    def _done_ranges(self) -> list[OffsetRange]:
        """The offsets above the low-water mark that are done; offsets without a record belong to the range before."""
        ranges: list[OffsetRange] = []
        done, start = self._done, None
        for offset in self._pending:
            if offset in done:
                if start is None:
                    start = offset
            elif start is not None:
                ranges.append((start, offset))
                start = None
        if start is not None and self.next_offset is not None:
            ranges.append((start, self.next_offset))
        # What an earlier owner has done, and this one has not fetched yet.
        ranges += [(max(first, self.next_offset or 0), end) for first, end in self._completed if self._is_ahead(end)]
        return ranges

    def _is_ahead(self, end: int) -> bool:
        return self.next_offset is None or end > self.next_offset


class Job:
    """One record on its way through a handler. `queue_key` is None for a record without key: those have no order."""

    __slots__ = ("queue_key", "record", "tracker")

    def __init__(self, record: Record, tracker: PartitionTracker) -> None:
        self.record = record
        self.tracker = tracker
        self.queue_key: tuple[Partition, bytes] | None = None if record.key is None else (tracker.partition, record.key)
