"""Which records of which partition are fetched, begun and done, and how far each partition may be committed.

Handler threads, the thread that stores, the loop and Kafka's IO thread all write here, so one lock guards it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..message import Record
from .stats import ConsumerStats


class Partition(NamedTuple):
    """A topic's partition; equal to, and hashed as, kafka-python's TopicPartition."""

    topic: str
    partition: int


class PartitionTracker:
    """The records of one partition between fetch and commit.

    Offsets come in fetch order, with gaps where the log is compacted or has transaction markers. It locks nothing.
    """

    __slots__ = (
        "_done",
        "_pending",
        "begun_mark",
        "committed",
        "forgotten",
        "held",
        "in_flight",
        "leaving",
        "next_offset",
        "partition",
    )

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        #: Fetched and not below the low-water mark, in order.
        self._pending: deque[int] = deque()
        self._done: set[int] = set()
        #: Where fetching goes on; None before the first record.
        self.next_offset: int | None = None
        #: Fetched, and neither done nor abandoned.
        self.in_flight = 0
        #: The highest offset that a handler has begun. KeyQueues writes it.
        self.begun_mark = -1
        #: What Kafka has confirmed; None if nothing.
        self.committed: int | None = None
        #: The partition is revoked, and it is not known yet whether it comes back.
        self.leaving = False
        #: It belongs to another consumer now; nothing counts any more.
        self.forgotten = False
        #: Jobs taken out of the key_queues while it is leaving.
        self.held: list[Job] = []

    def add(self, offset: int) -> None:
        """A record was fetched."""
        self._pending.append(offset)
        self.next_offset = offset + 1
        self.in_flight += 1

    def done(self, offset: int) -> None:
        """A record was handled, or its retry stored, or it is not for this group."""
        self._done.add(offset)
        self.in_flight -= 1

    @property
    def span(self) -> int:
        """How many records lie between the low-water mark and the last one fetched."""
        return len(self._pending)

    def low_water(self) -> int | None:
        """The offset to commit: every record below it is done. None before the first record."""
        pending, done = self._pending, self._done
        while pending and pending[0] in done:
            done.discard(pending.popleft())
        return pending[0] if pending else self.next_offset


class Job:
    """One record on its way through a handler. `lane` is None for a record without key: those have no order."""

    __slots__ = ("lane", "record", "tracker")

    def __init__(self, record: Record, tracker: PartitionTracker) -> None:
        self.record = record
        self.tracker = tracker
        self.lane: tuple[Partition, bytes] | None = None if record.key is None else (tracker.partition, record.key)


@dataclass(frozen=True, slots=True)
class Load:
    """How much one partition holds: records in flight, and records from the low-water mark on."""

    in_flight: int
    span: int


class OffsetTracker:
    """All partitions of a consumer, and its counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trackers: dict[Partition, PartitionTracker] = {}
        self._succeeded = self._retried = self._dead = self._errors = self._skipped = 0
        #: Handled, but not entered yet. Were the handler threads to take the lock for every record, they would spend
        #: most of their time handing it to one another.
        self._finished: deque[Job] = deque()
        #: The handler returned; from any thread, without a lock.
        self.succeed: Callable[[Job], None] = self._finished.append

    def _settle(self) -> None:
        """Enter what was handled; with the lock held."""
        finished = self._finished
        while finished:
            job = finished.popleft()
            if not job.tracker.forgotten:
                job.tracker.done(job.record.offset)
                self._succeeded += 1

    def stats(self) -> ConsumerStats:
        with self._lock:
            self._settle()
            return ConsumerStats(
                succeeded=self._succeeded,
                retried=self._retried,
                dead=self._dead,
                errors=self._errors,
                skipped=self._skipped,
            )

    def trackers(self, partitions: Iterable[tuple[str, int]] | None = None) -> list[PartitionTracker]:
        """The trackers of these partitions, as far as there are any; all with None."""
        with self._lock:
            if partitions is None:
                return list(self._trackers.values())
            found = (self._trackers.get(Partition(*partition)) for partition in partitions)
            return [tracker for tracker in found if tracker is not None]

    def admit(
        self, partition: tuple[str, int], records: Collection[tuple[int, Record | None]]
    ) -> tuple[list[Job], PartitionTracker | None]:
        """Enter fetched records, in order; None stands for a record that is not for this group.

        Returns:
            the jobs to do, and the tracker that these records replace, if there is one: offsets that go back mean
            that the log was truncated or the topic made anew, so what was known of it holds no more.
        """
        replaced = None
        with self._lock:
            tracker = self._trackers.get(Partition(*partition))
            if tracker is not None and tracker.next_offset is not None and records:
                first = next(iter(records))[0]
                if first < tracker.next_offset:
                    replaced, tracker = tracker, None
            if tracker is None:
                tracker = self._trackers[Partition(*partition)] = PartitionTracker(Partition(*partition))
            jobs = []
            for offset, record in records:
                tracker.add(offset)
                if record is None:
                    tracker.done(offset)
                    self._skipped += 1
                else:
                    jobs.append(Job(record, tracker))
        return jobs, replaced

    def stored(self, jobs: Iterable[tuple[Job, bool]]) -> None:
        """Their retries, or with True their dead letters, are safe in Redis."""
        with self._lock:
            for job, dead in jobs:
                if job.tracker.forgotten:
                    continue
                job.tracker.done(job.record.offset)
                if dead:
                    self._dead += 1
                else:
                    self._retried += 1

    def abandon(self, job: Job) -> None:
        """Nobody works at this record any more, and it is not done: it stays uncommitted."""
        with self._lock:
            if not job.tracker.forgotten:
                job.tracker.in_flight -= 1
                self._errors += 1

    def forget(self, tracker: PartitionTracker, not_begun: int) -> int:
        """Give up a partition; what still comes in for it is ignored.

        Args:
            not_begun: how many of its records in flight no handler has begun: those are no errors.

        Returns:
            how many records are let go unfinished or unstored.
        """
        with self._lock:
            self._settle()
            if tracker.forgotten:
                return 0
            tracker.forgotten = True
            if self._trackers.get(tracker.partition) is tracker:
                del self._trackers[tracker.partition]
            let_go = tracker.in_flight - not_begun
            self._errors += let_go
            return let_go

    def busy(self, trackers: Iterable[PartitionTracker]) -> int:
        """How many of their records are with a handler, before one, or waiting to be stored; without held ones."""
        with self._lock:
            self._settle()
            return sum(tracker.in_flight - len(tracker.held) for tracker in trackers if not tracker.forgotten)

    def loads(self) -> dict[Partition, Load]:
        with self._lock:
            self._settle()
            return {p: Load(t.in_flight, t.span) for p, t in self._trackers.items()}

    def to_commit(self, trackers: Iterable[PartitionTracker] | None = None) -> dict[Partition, int]:
        """The low-water marks that Kafka does not know yet: of these trackers, or of all that are not leaving."""
        with self._lock:
            self._settle()
            chosen = [t for t in self._trackers.values() if not t.leaving] if trackers is None else trackers
            marks = [(t, t.low_water()) for t in chosen if not t.forgotten]
            return {t.partition: mark for t, mark in marks if mark is not None and mark != t.committed}

    def confirm(self, marks: dict[Partition, int]) -> None:
        """Kafka has these marks."""
        with self._lock:
            for partition, mark in marks.items():
                tracker = self._trackers.get(partition)
                if tracker is not None:
                    tracker.committed = mark
