"""Queues the records that wait for a handler thread, and keeps records with the same key in order.

The records of one partition with the same key form a queue. At most one record of a queue is ready or with a handler.
The others follow one at a time. Records without a key have no order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable

from .partition_tracker import Job, Partition, PartitionTracker


class KeyQueues:
    """The waiting records of all partitions, shared by the handler threads.

    Args:
        low_mark: when only this number of records is left, `wake` is set, so that the loop fetches more.
        wake: the event that wakes the loop. It is also set when no record is left.
    """

    def __init__(self, low_mark: int, wake: threading.Event) -> None:
        self._low_mark = low_mark
        self._wake = wake
        self._lock = threading.Lock()
        #: Threads that wait for a record.
        self._idle = threading.Condition(self._lock)
        #: The number of threads that wait for a record and were not woken yet.
        self._waiting_threads = 0
        #: How many threads were woken and do not run yet.
        self._woken_threads = 0
        self._ready: deque[Job] = deque()
        #: The key of each queue with a record that is ready or with a handler -> the records that follow it. None is an
        #: empty queue: most keys have no second record, and a deque takes 600 bytes.
        self._followers: dict[tuple[Partition, bytes], deque[Job] | None] = {}
        self._size = 0
        self._closed = False

    @property
    def size(self) -> int:
        """The number of records that wait or are with a handler."""
        return self._size

    def add(self, jobs: Collection[Job]) -> None:
        """Add records. The records of one partition must come in the order of their offsets."""
        with self._lock:
            for job in jobs:
                key = job.queue_key
                if key is not None:
                    if key in self._followers:
                        followers = self._followers[key]
                        if followers is None:
                            followers = self._followers[key] = deque()
                        followers.append(job)
                        continue
                    self._followers[key] = None
                self._ready.append(job)
            self._size += len(jobs)
            self._wake_threads()

    def take(self, finished: Job | None = None) -> Job | None:
        """Wait for a record, mark it as started, and return it. None means that the queues are closed.

        Args:
            finished: the last record of this thread, if it is done. This saves a call of `finish`. None: there is none.
        """
        with self._lock:
            if finished is not None:
                self._finish(finished)
            while not self._ready and not self._closed:
                self._waiting_threads += 1
                self._idle.wait()
                self._woken_threads -= 1
            if self._closed:
                return None
            job = self._ready.popleft()
            self._wake_threads()
            tracker = job.tracker
            if job.record.offset > tracker.last_started:
                tracker.last_started = job.record.offset
            return job

    def finish(self, job: Job) -> None:
        """Note that a handler is done with a record. The next record of its queue becomes ready."""
        with self._lock:
            self._finish(job)
            self._wake_threads()

    def _wake_threads(self) -> None:
        """Wake as many waiting threads as there are records for them. The caller holds the lock."""
        # A thread may take a while to wake up. Until then it counts as woken, so that no record wakes it again.
        if self._waiting_threads and (count := min(len(self._ready) - self._woken_threads, self._waiting_threads)) > 0:
            self._waiting_threads -= count
            self._woken_threads += count
            self._idle.notify(count)

    def _finish(self, job: Job) -> None:
        self._size -= 1
        key = job.queue_key
        if key is not None:
            followers = self._followers.get(key)
            if followers:
                self._ready.append(followers.popleft())
            else:
                self._followers.pop(key, None)
        if self._size in (self._low_mark, 0):
            self._wake.set()

    def remove_waiting(
        self, trackers: Iterable[PartitionTracker], *, everything: bool = False
    ) -> dict[Partition, list[Job]]:
        """Remove and return the records of these partitions that no handler has started, in the order of their offsets.

        Args:
            trackers: the trackers of the partitions.
            everything: also remove the records below a started record. By default they stay and are handled, because
                the commit cannot pass them.
        """
        chosen = {id(tracker) for tracker in trackers}
        partitions: dict[Partition, list[Job]] = {}

        def is_removed(job: Job) -> bool:
            tracker = job.tracker
            if id(tracker) not in chosen or not (everything or job.record.offset > tracker.last_started):
                return False
            partitions.setdefault(tracker.partition, []).append(job)
            return True

        with self._lock:
            # Followers have higher offsets than the record before them. If it is removed, all its followers are too.
            without_first = set()
            ready: deque[Job] = deque()
            for job in self._ready:
                if is_removed(job):
                    if job.queue_key is not None:
                        without_first.add(job.queue_key)
                else:
                    ready.append(job)
            self._ready = ready
            for key, followers in list(self._followers.items()):
                stay = deque(job for job in followers or () if not is_removed(job))
                if key in without_first and not stay:
                    del self._followers[key]
                elif key in without_first:
                    # The partition was assigned again in the meantime. These followers belong to its new tracker.
                    self._ready.append(stay.popleft())
                    self._followers[key] = stay or None
                else:
                    self._followers[key] = stay or None
            for jobs in partitions.values():
                jobs.sort(key=lambda job: job.record.offset)
                self._size -= len(jobs)
            self._wake_threads()
        return partitions

    def close(self) -> None:
        """Let the handler threads end, and drop the waiting records."""
        with self._lock:
            self._closed = True
            self._ready.clear()
            self._followers = {}
            self._idle.notify_all()
