"""Who is next: records wait here for a handler thread, in order for each key.

Records of one partition with the same key form a lane. Of each lane at most one record is ready or being handled; the
others follow one after the other. Records without a key have no order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable

from .offset_tracker import Job, Partition, PartitionTracker


class KeyQueues:
    """The waiting records of all partitions, shared by the handler threads.

    Args:
        low_mark: when so few records are left, `wake` is set, so that the loop fetches more.
        wake: also set when nothing is left.
    """

    def __init__(self, low_mark: int, wake: threading.Event) -> None:
        self._low_mark = low_mark
        self._wake = wake
        self._idle = threading.Condition(threading.Lock())
        self._idlers = 0
        self._ready: deque[Job] = deque()
        #: A lane is here while one of its records is ready or being handled; its value is what follows.
        #: None instead of an empty deque: most keys have no follower, and a deque takes 600 bytes.
        self._followers: dict[tuple[Partition, bytes], deque[Job] | None] = {}
        self._size = 0
        self._closed = False

    @property
    def size(self) -> int:
        """How many records wait or are being handled."""
        return self._size

    def add(self, jobs: Collection[Job]) -> None:
        """Put records in line; those of one partition come in the order of their offsets."""
        with self._idle:
            for job in jobs:
                lane = job.lane
                if lane is not None:
                    if lane in self._followers:
                        followers = self._followers[lane]
                        if followers is None:
                            followers = self._followers[lane] = deque()
                        followers.append(job)
                        continue
                    self._followers[lane] = None
                self._ready.append(job)
            self._size += len(jobs)
            if self._idlers and self._ready:
                self._idle.notify()

    def take(self, finished: Job | None = None) -> Job | None:
        """Wait for a record and begin it; None means that it is over.

        Args:
            finished: what this thread had taken before, if it is through: as `finish`, without a lock of its own.
        """
        with self._idle:
            if finished is not None:
                self._finish(finished)
            while not self._ready and not self._closed:
                self._idlers += 1
                self._idle.wait()
                self._idlers -= 1
            if self._closed:
                return None
            job = self._ready.popleft()
            # Each taker wakes the next: a handler that is quicker than a thread switch keeps the others asleep.
            if self._idlers and self._ready:
                self._idle.notify()
            tracker = job.tracker
            if job.record.offset > tracker.begun_mark:
                tracker.begun_mark = job.record.offset
            return job

    def finish(self, job: Job) -> None:
        """A taken record is through, whatever came of it: the next one of its lane is ready."""
        with self._idle:
            self._finish(job)
            if self._idlers and self._ready:
                self._idle.notify()

    def _finish(self, job: Job) -> None:
        self._size -= 1
        if job.lane is not None:
            followers = self._followers.get(job.lane)
            if followers:
                self._ready.append(followers.popleft())
            else:
                self._followers.pop(job.lane, None)
        if self._size in (self._low_mark, 0):
            self._wake.set()

    def withdraw(self, trackers: Iterable[PartitionTracker], *, everything: bool = False) -> dict[Partition, list[Job]]:
        """Take out what no handler has begun, in the order of the offsets.

        Unless `everything`, records below one that has been begun stay: were they left out, the begun ones above them
        could not be committed and would be handled again.
        """
        chosen = {id(tracker) for tracker in trackers}
        partitions: dict[Partition, list[Job]] = {}

        def leaves(job: Job) -> bool:
            tracker = job.tracker
            if id(tracker) not in chosen or not (everything or job.record.offset > tracker.begun_mark):
                return False
            partitions.setdefault(tracker.partition, []).append(job)
            return True

        with self._idle:
            # Followers lie above the record that they follow: where it leaves, they all do, and so does the lane.
            left_key_queues = set()
            ready: deque[Job] = deque()
            for job in self._ready:
                if leaves(job):
                    if job.lane is not None:
                        left_key_queues.add(job.lane)
                else:
                    ready.append(job)
            self._ready = ready
            for lane, followers in list(self._followers.items()):
                stay = deque(job for job in followers or () if not leaves(job))
                if lane in left_key_queues and not stay:
                    del self._followers[lane]
                elif lane in left_key_queues:
                    # Records of an older owner's turn were before those of a newer one.
                    self._ready.append(stay.popleft())
                    self._followers[lane] = stay or None
                else:
                    self._followers[lane] = stay or None
            for jobs in partitions.values():
                jobs.sort(key=lambda job: job.record.offset)
                self._size -= len(jobs)
        return partitions

    def close(self) -> None:
        """Let the handler threads end; what waits is dropped."""
        with self._idle:
            self._closed = True
            self._ready.clear()
            self._followers = {}
            self._idle.notify_all()
