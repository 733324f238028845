"""Tracks all partitions of a consumer: the records that are fetched and done, and the offsets to commit.

The handler threads, the retry writer's thread, the loop and kafka-python's IO thread all call it. One lock guards it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..message import Record
from .offset_metadata import MAX_TEXT, OffsetRange
from .partition_tracker import Job, Mark, Partition, PartitionTracker, TakenTracker
from .stats import ConsumerStats


@dataclass(frozen=True, slots=True)
class Load:
    """The number of a partition's records: in flight, above the low-water mark (`span`), and done without a commit."""

    in_flight: int
    span: int
    uncommitted: int


class OffsetTracker:
    """The trackers of all partitions of a consumer, and its counts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._trackers: dict[Partition, PartitionTracker] = {}
        self._succeeded = self._retried = self._dead = self._dropped = self._errors = self._skipped = 0
        #: Records that are handled, but not counted yet. If the handler threads took the lock for every record, they
        #: would spend most of their time waiting for it.
        self._finished: deque[Job] = deque()
        #: Note that the handler has returned. Any thread may call this; it takes no lock.
        self.succeed: Callable[[Job], None] = self._finished.append
        #: The longest metadata of a commit, in characters.
        self.max_metadata = MAX_TEXT

    def _enter_finished(self) -> None:
        """Count the records that were handled. The caller holds the lock."""
        finished = self._finished
        while finished:
            job = finished.popleft()
            if not job.tracker.released:
                job.tracker.done(job.record.offset)
                self._succeeded += 1

    def stats(self) -> ConsumerStats:
        """Return the counts so far."""
        with self._lock:
            self._enter_finished()
            return ConsumerStats(
                succeeded=self._succeeded,
                retried=self._retried,
                dead=self._dead,
                dropped=self._dropped,
                errors=self._errors,
                skipped=self._skipped,
            )

    def trackers(self, partitions: Iterable[tuple[str, int]] | None = None) -> list[PartitionTracker]:
        """Return the existing trackers of these partitions; None means all partitions."""
        with self._lock:
            if partitions is None:
                return list(self._trackers.values())
            found = (self._trackers.get(Partition(*partition)) for partition in partitions)
            return [tracker for tracker in found if tracker is not None]

    def open(
        self, partition: tuple[str, int], committed: Mark | None = None, completed: Sequence[OffsetRange] = ()
    ) -> None:
        """Begin to track an assigned partition, unless it is tracked already.

        Args:
            partition: the partition.
            committed: the group's commit in Kafka; None if the group has committed nothing.
            completed: offsets above it that an earlier owner has done.
        """
        key = Partition(*partition)
        with self._lock:
            if key not in self._trackers:
                self._trackers[key] = PartitionTracker(key, committed, completed)

    def advance(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Note the position of each partition. It may be higher than the offset after the last fetched record."""
        with self._lock:
            for partition, position in positions.items():
                tracker = self._trackers.get(Partition(*partition))
                if tracker is not None and not tracker.revoked:
                    tracker.advance(position)

    def admit(
        self,
        partition: tuple[str, int],
        records: Collection[tuple[int, Record | None]],
        next_offset: int | None = None,
    ) -> tuple[list[Job], PartitionTracker | None]:
        """Add fetched records, in order. A record of None is for another group, or is skipped.

        Args:
            partition: the partition of the records.
            records: the offset of each record, and the record.
            next_offset: the next offset to fetch; None means the offset after the last record.

        Returns:
            the jobs for the handlers, and the tracker that is replaced by a new one, or None. A tracker is replaced if
            the offsets go back: the log was truncated, or the topic was created again.
        """
        replaced = None
        key = Partition(*partition)
        with self._lock:
            tracker = self._trackers.get(key)
            if tracker is not None and tracker.next_offset is not None and records:
                first = next(iter(records))[0]
                if first < tracker.next_offset:
                    replaced, tracker = tracker, None
            if tracker is None:
                tracker = self._trackers[key] = PartitionTracker(key)
            completed = tracker.add([offset for offset, _ in records])
            jobs = []
            for offset, record in records:
                if record is not None and offset not in completed:
                    jobs.append(Job(record, tracker))
                    continue
                self._skipped += 1
                if offset not in completed:
                    tracker.done(offset)
            if next_offset is not None:
                tracker.advance(next_offset)
        return jobs, replaced

    def stored(self, jobs: Iterable[tuple[Job, bool]]) -> None:
        """Note that the retries (False) or the dead letters (True) of these jobs are stored in Redis."""
        with self._lock:
            for job, dead in jobs:
                if job.tracker.released:
                    continue
                job.tracker.done(job.record.offset)
                if dead:
                    self._dead += 1
                else:
                    self._retried += 1

    def drop(self, job: Job) -> None:
        """Note that a record has failed and is done, because its policy or its handler drops it."""
        with self._lock:
            if not job.tracker.released:
                job.tracker.done(job.record.offset)
                self._dropped += 1

    def set_aside(self, jobs: Iterable[Job]) -> None:
        """Note that records are in Redis, as parts of chains. They are counted when they are handled."""
        with self._lock:
            for job in jobs:
                if not job.tracker.released:
                    job.tracker.done(job.record.offset)

    def track_taken(self) -> TakenTracker:
        """Begin to track the records that are taken from chains in Redis."""
        tracker = TakenTracker()
        with self._lock:
            self._trackers[tracker.partition] = tracker
        return tracker

    def take(self, tracker: TakenTracker) -> bool:
        """Note that records were taken from a chain, for one thread. Return False if the consumer has stopped."""
        with self._lock:
            tracker.in_flight += not tracker.released
            return not tracker.released

    def finish_taken(self, tracker: TakenTracker, *, succeeded: int, retried: int, dead: int, dropped: int) -> None:
        """Note what became of the records that one thread had taken from a chain, once Redis has heard of it."""
        with self._lock:
            tracker.in_flight -= not tracker.released
            self._succeeded += succeeded
            self._retried += retried
            self._dead += dead
            self._dropped += dropped

    def abandon(self, job: Job) -> None:
        """Note that a record is not done and that no handler works on it any more. It stays uncommitted."""
        with self._lock:
            if not job.tracker.released:
                job.tracker.in_flight -= 1
                self._errors += 1

    def release(self, tracker: PartitionTracker, not_started: int) -> int:
        """Stop tracking a partition. Later reports on its records are ignored.

        Args:
            tracker: the partition's tracker.
            not_started: the number of its records in flight that no handler has started. They do not count as errors.

        Returns:
            the number of records that were started, but are not finished or not stored.
        """
        with self._lock:
            self._enter_finished()
            if tracker.released:
                return 0
            tracker.released = True
            if self._trackers.get(tracker.partition) is tracker:
                del self._trackers[tracker.partition]
            unfinished = tracker.in_flight - not_started
            self._errors += unfinished
            return unfinished

    def busy(self, trackers: Iterable[PartitionTracker] | None = None) -> int:
        """Count the records that wait for a handler, are with a handler, or wait to be stored. Held ones do not count.

        Args:
            trackers: the trackers to count; None means all.
        """
        with self._lock:
            self._enter_finished()
            chosen = self._trackers.values() if trackers is None else trackers
            return sum(tracker.in_flight - len(tracker.held) for tracker in chosen if not tracker.released)

    def is_uncommitted(self) -> bool:
        """Return whether records are done that Kafka has not confirmed as committed."""
        with self._lock:
            self._enter_finished()
            return any(t.changes != t.changes_committed and not t.revoked for t in self._trackers.values())

    def loads(self) -> dict[Partition, Load]:
        """Return the number of records of each partition."""
        with self._lock:
            self._enter_finished()
            return {
                p: Load(t.in_flight, t.span, 0 if t.revoked else t.changes - t.changes_committed)
                for p, t in self._trackers.items()
            }

    def to_commit(self, trackers: Iterable[PartitionTracker] | None = None) -> dict[Partition, Mark]:
        """Return the marks that Kafka does not have yet.

        Args:
            trackers: the trackers to look at; None means all that are not revoked.
        """
        with self._lock:
            self._enter_finished()
            chosen = [t for t in self._trackers.values() if not t.revoked] if trackers is None else trackers
            marks: dict[Partition, Mark] = {}
            for tracker in chosen:
                if tracker.released or tracker.changes == tracker.changes_committed:
                    continue
                tracker.changes_sent = tracker.changes
                mark = tracker.mark(self.max_metadata)
                if mark is None or mark == tracker.committed:
                    tracker.changes_committed = tracker.changes
                else:
                    marks[tracker.partition] = mark
            return marks

    def confirm(self, marks: Mapping[Partition, Mark]) -> None:
        """Note that Kafka has confirmed these marks."""
        with self._lock:
            for partition, mark in marks.items():
                tracker = self._trackers.get(partition)
                if tracker is not None:
                    tracker.committed = mark
                    tracker.changes_committed = tracker.changes_sent
