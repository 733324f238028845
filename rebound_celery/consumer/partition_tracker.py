"""Tracks the records of one partition from their fetch to their commit."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import NamedTuple

from ..message import Record
from .offset_metadata import MAX_TEXT, OffsetRange, encode


class Partition(NamedTuple):
    """A partition of a topic. It has the equality and the hash of kafka-python's TopicPartition."""

    topic: str
    partition: int


class Mark(NamedTuple):
    """The commit of a partition.

    Attributes:
        offset: the low-water mark. Every record below it is done.
        metadata: the records above it that are done; see `offset_metadata`. Empty if there are none.
    """

    offset: int
    metadata: str = ""


class PartitionTracker:
    """The records of one partition between fetch and commit. It has no lock of its own.

    Offsets come in the order of the fetch. They have gaps if the log was compacted or has transaction markers.

    Args:
        partition: the partition.
        committed: the group's commit in Kafka; None if the group has committed nothing.
        completed: offsets above `committed` that an earlier owner of the partition has done, in order.
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
        #: The fetched offsets that are not below the low-water mark, in order.
        self._pending: deque[int] = deque()
        #: The offsets in `_pending` that are done.
        self._done: set[int] = set()
        #: The next offset to fetch: every lower offset was fetched or has no record. None while it is not known.
        self.next_offset: int | None = None if committed is None else committed.offset
        #: The number of fetched records that are not done and not abandoned.
        self.in_flight = 0
        #: The highest offset that a handler has started. KeyQueues writes it.
        self.last_started = -1
        #: The last commit that Kafka has confirmed; None if there is none.
        self.committed = committed
        #: The number of changes in all, in the last commit, and in the last confirmed commit.
        self.changes = 1
        self.changes_sent = 0
        self.changes_committed = 0
        #: Whether the partition is revoked, and may still be assigned again.
        self.revoked = False
        #: Whether the partition is no longer tracked. Reports on its records are then ignored.
        self.released = False
        #: Jobs that were removed from the key queues while the partition is revoked.
        self.held: list[Job] = []

    def add(self, offsets: Sequence[int]) -> Collection[int]:
        """Add fetched records, in order. Return those that an earlier owner has done: no handler may get them again."""
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
        """Note that a record is done: it was handled, its retry is stored, or it is for another group."""
        self._done.add(offset)
        self.in_flight -= 1
        self.changes += 1

    def advance(self, position: int) -> None:
        """Note that all records below `position` were fetched. The last offsets below it may have no records."""
        if self.next_offset is None or position > self.next_offset:
            self.next_offset = position
            self.changes += 1

    @property
    def span(self) -> int:
        """The number of records from the low-water mark to the last fetched record."""
        return len(self._pending)

    def low_water(self) -> int | None:
        """Return the offset to commit; None while no position is known. Every record below this offset is done."""
        pending, done = self._pending, self._done
        while pending and pending[0] in done:
            done.discard(pending.popleft())
        return pending[0] if pending else self.next_offset

    def mark(self, max_text: int = MAX_TEXT) -> Mark | None:
        """Return the commit of the partition; None while no position is known.

        Args:
            max_text: the longest metadata, in characters.
        """
        offset = self.low_water()
        if offset is None:
            return None
        ahead = self._done or self._completed
        return Mark(offset, encode(offset, self._done_ranges(), max_text) if ahead else "")

    def _done_ranges(self) -> list[OffsetRange]:
        """Return the offsets above the low-water mark that are done. Gaps without records join the range before."""
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
        # Offsets that an earlier owner has done, and that are not fetched yet.
        ranges += [(max(first, self.next_offset or 0), end) for first, end in self._completed if self._is_ahead(end)]
        return ranges

    def _is_ahead(self, end: int) -> bool:
        return self.next_offset is None or end > self.next_offset


class TakenTracker(PartitionTracker):
    """The records that were taken from chains in Redis. They have no offset to commit: Redis keeps them."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(Partition("", -1))

    def low_water(self) -> None:
        """There is none."""


class Job:
    """A fetched record with its tracker. `queue_key` is None for a record without a key, which has no order."""

    __slots__ = ("queue_key", "record", "tracker")

    def __init__(self, record: Record, tracker: PartitionTracker) -> None:
        self.record = record
        self.tracker = tracker
        self.queue_key: tuple[Partition, bytes] | None = None if record.key is None else (tracker.partition, record.key)
