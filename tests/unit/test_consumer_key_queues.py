"""The key queues: order by key, never two records of a key at once, and the removal of records that are not started."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict

from rebound_celery.consumer.key_queues import KeyQueues
from rebound_celery.consumer.offset_tracker import OffsetTracker
from rebound_celery.consumer.partition_tracker import Job, Partition
from tests.unit.test_consumer_offset_tracker import P, record
from tests.waiting import wait_until


def make(*keys: bytes | None) -> tuple[KeyQueues, list[Job]]:
    jobs, _ = OffsetTracker().admit(P, [(offset, record(offset, key)) for offset, key in enumerate(keys)])
    key_queues = KeyQueues(0, threading.Event())
    key_queues.add(jobs)
    return key_queues, jobs


def take(key_queues: KeyQueues) -> int:
    job = key_queues.take()
    assert job is not None
    return job.record.offset


def left(key_queues: KeyQueues, tracker: object, **how: bool) -> list[int]:
    return [job.record.offset for job in key_queues.remove_waiting([tracker], **how).get(P, [])]  # type: ignore[list-item]


def test_records_of_one_key_follow_one_another() -> None:
    key_queues, jobs = make(b"a", b"a", b"b", b"a")
    assert [take(key_queues), take(key_queues)] == [0, 2]
    key_queues.finish(jobs[0])
    assert take(key_queues) == 1
    key_queues.finish(jobs[1])
    assert take(key_queues) == 3
    key_queues.finish(jobs[2])
    key_queues.finish(jobs[3])
    assert key_queues.size == 0


def test_records_without_key_do_not_wait_for_each_other() -> None:
    key_queues, _ = make(None, None, None)
    assert [take(key_queues) for _ in range(3)] == [0, 1, 2]


def test_the_same_key_in_two_partitions_are_two_key_queues() -> None:
    key_queues, _ = make(b"a")
    jobs, _ = OffsetTracker().admit(Partition("orders", 4), [(7, record(7, b"a"))])
    key_queues.add(jobs)
    assert [take(key_queues), take(key_queues)] == [0, 7]


def test_a_key_that_is_still_handled_for_a_lost_partition_is_not_handled_twice_at_once() -> None:
    key_queues, jobs = make(b"a")
    take(key_queues)
    key_queues.remove_waiting([jobs[0].tracker], everything=True)
    again, _ = OffsetTracker().admit(P, [(0, record(0, b"a"))])
    key_queues.add(again)
    assert key_queues.size == 2
    assert left(key_queues, again[0].tracker) == [0]
    key_queues.add(again)
    key_queues.finish(jobs[0])
    assert take(key_queues) == 0


def test_withdrawing_keeps_what_lies_below_a_begun_record() -> None:
    key_queues, jobs = make(b"a", b"a", b"b", b"b", b"c")
    assert [take(key_queues), take(key_queues)] == [0, 2]
    assert left(key_queues, jobs[0].tracker) == [3, 4]
    key_queues.finish(jobs[0])
    assert take(key_queues) == 1
    key_queues.finish(jobs[1])
    key_queues.finish(jobs[2])
    assert key_queues.size == 0


def test_withdrawing_everything_leaves_only_what_runs() -> None:
    key_queues, jobs = make(b"a", b"a", b"b", None)
    assert take(key_queues) == 0
    assert left(key_queues, jobs[0].tracker, everything=True) == [1, 2, 3]
    assert key_queues.size == 1
    key_queues.finish(jobs[0])
    assert key_queues.size == 0
    key_queues.add(jobs[1:])
    assert [take(key_queues) for _ in range(3)] == [1, 2, 3]


def test_closing_ends_the_takers() -> None:
    key_queues, _ = make()
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(key_queues.take())) for _ in range(4)]
    for thread in threads:
        thread.start()
    key_queues.close()
    for thread in threads:
        thread.join(5)
    assert ended == [None] * 4


def test_a_running_record_may_finish_after_the_close() -> None:
    key_queues, jobs = make(b"a", b"a")
    take(key_queues)
    key_queues.close()
    key_queues.finish(jobs[0])
    assert key_queues.take() is None


class Watch:
    """A handler that notes who is handled when."""

    def __init__(self, offset_tracker: OffsetTracker, key_queues: KeyQueues) -> None:
        self.offset_tracker, self.key_queues = offset_tracker, key_queues
        self.busy: set[bytes] = set()
        self.broken: list[bytes] = []
        self.order: dict[bytes | None, list[int]] = defaultdict(list)
        self.handled: list[int] = []

    def work(self) -> None:
        while (job := self.key_queues.take()) is not None:
            self.handle(job.record.offset, job.record.key)
            self.offset_tracker.succeed(job)
            self.key_queues.finish(job)

    def handle(self, offset: int, key: bytes | None) -> None:
        if key in self.busy:
            self.broken.append(key)
        if key is not None:
            self.busy.add(key)
            self.order[key].append(offset)
        if offset % 7 == 0:
            time.sleep(0.0002)
        self.busy.discard(key)  # type: ignore[arg-type]
        self.handled.append(offset)


def test_threads_never_share_a_key_and_keep_its_order() -> None:
    chance = random.Random(1)
    keys = [chance.choice([None, *(b"%d" % n for n in range(12))]) for _ in range(3000)]
    offset_tracker, key_queues = OffsetTracker(), KeyQueues(0, threading.Event())
    jobs, _ = offset_tracker.admit(P, [(offset, record(offset, key)) for offset, key in enumerate(keys)])
    watch = Watch(offset_tracker, key_queues)
    threads = [threading.Thread(target=watch.work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for start in range(0, len(jobs), 100):
        key_queues.add(jobs[start : start + 100])
        if start % 300 == 0:  # as a rebalance does
            key_queues.add(key_queues.remove_waiting([jobs[0].tracker]).get(P, []))
    wait_until(lambda: key_queues.size == 0, timeout=20)
    key_queues.close()
    for thread in threads:
        thread.join(5)
    assert watch.broken == []
    assert sorted(watch.handled) == list(range(3000))
    assert all(offsets == sorted(offsets) for offsets in watch.order.values())
    assert offset_tracker.to_commit()[P].offset == 3000
