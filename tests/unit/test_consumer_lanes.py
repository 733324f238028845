"""The lanes: order by key, never two of a key at once, and taking out what is not begun."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict

from rebound_celery.consumer.lanes import Lanes
from rebound_celery.consumer.ledger import Job, Ledger, Partition
from tests.unit.test_consumer_ledger import P, record
from tests.waiting import wait_until


def make(*keys: bytes | None) -> tuple[Lanes, list[Job]]:
    jobs, _ = Ledger().admit(P, [(offset, record(offset, key)) for offset, key in enumerate(keys)])
    lanes = Lanes(0, threading.Event())
    lanes.add(jobs)
    return lanes, jobs


def take(lanes: Lanes) -> int:
    job = lanes.take()
    assert job is not None
    return job.record.offset


def left(lanes: Lanes, tracker: object, **how: bool) -> list[int]:
    return [job.record.offset for job in lanes.withdraw([tracker], **how).get(P, [])]  # type: ignore[list-item]


def test_records_of_one_key_follow_one_another() -> None:
    lanes, jobs = make(b"a", b"a", b"b", b"a")
    assert [take(lanes), take(lanes)] == [0, 2]
    lanes.finish(jobs[0])
    assert take(lanes) == 1
    lanes.finish(jobs[1])
    assert take(lanes) == 3
    lanes.finish(jobs[2])
    lanes.finish(jobs[3])
    assert lanes.size == 0


def test_records_without_key_do_not_wait_for_each_other() -> None:
    lanes, _ = make(None, None, None)
    assert [take(lanes) for _ in range(3)] == [0, 1, 2]


def test_the_same_key_in_two_partitions_are_two_lanes() -> None:
    lanes, _ = make(b"a")
    jobs, _ = Ledger().admit(Partition("orders", 4), [(7, record(7, b"a"))])
    lanes.add(jobs)
    assert [take(lanes), take(lanes)] == [0, 7]


def test_a_key_that_is_still_handled_for_a_lost_partition_is_not_handled_twice_at_once() -> None:
    lanes, jobs = make(b"a")
    take(lanes)
    lanes.withdraw([jobs[0].tracker], everything=True)
    again, _ = Ledger().admit(P, [(0, record(0, b"a"))])
    lanes.add(again)
    assert lanes.size == 2
    assert left(lanes, again[0].tracker) == [0]
    lanes.add(again)
    lanes.finish(jobs[0])
    assert take(lanes) == 0


def test_withdrawing_keeps_what_lies_below_a_begun_record() -> None:
    lanes, jobs = make(b"a", b"a", b"b", b"b", b"c")
    assert [take(lanes), take(lanes)] == [0, 2]
    assert left(lanes, jobs[0].tracker) == [3, 4]
    lanes.finish(jobs[0])
    assert take(lanes) == 1
    lanes.finish(jobs[1])
    lanes.finish(jobs[2])
    assert lanes.size == 0


def test_withdrawing_everything_leaves_only_what_runs() -> None:
    lanes, jobs = make(b"a", b"a", b"b", None)
    assert take(lanes) == 0
    assert left(lanes, jobs[0].tracker, everything=True) == [1, 2, 3]
    assert lanes.size == 1
    lanes.finish(jobs[0])
    assert lanes.size == 0
    lanes.add(jobs[1:])
    assert [take(lanes) for _ in range(3)] == [1, 2, 3]


def test_closing_ends_the_takers() -> None:
    lanes, _ = make()
    ended = []
    threads = [threading.Thread(target=lambda: ended.append(lanes.take())) for _ in range(4)]
    for thread in threads:
        thread.start()
    lanes.close()
    for thread in threads:
        thread.join(5)
    assert ended == [None] * 4


def test_a_running_record_may_finish_after_the_close() -> None:
    lanes, jobs = make(b"a", b"a")
    take(lanes)
    lanes.close()
    lanes.finish(jobs[0])
    assert lanes.take() is None


class Watch:
    """A handler that notes who is handled when."""

    def __init__(self, ledger: Ledger, lanes: Lanes) -> None:
        self.ledger, self.lanes = ledger, lanes
        self.busy: set[bytes] = set()
        self.broken: list[bytes] = []
        self.order: dict[bytes | None, list[int]] = defaultdict(list)
        self.handled: list[int] = []

    def work(self) -> None:
        while (job := self.lanes.take()) is not None:
            self.handle(job.record.offset, job.record.key)
            self.ledger.succeed(job)
            self.lanes.finish(job)

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
    ledger, lanes = Ledger(), Lanes(0, threading.Event())
    jobs, _ = ledger.admit(P, [(offset, record(offset, key)) for offset, key in enumerate(keys)])
    watch = Watch(ledger, lanes)
    threads = [threading.Thread(target=watch.work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for start in range(0, len(jobs), 100):
        lanes.add(jobs[start : start + 100])
        if start % 300 == 0:  # as a rebalance does
            lanes.add(lanes.withdraw([jobs[0].tracker]).get(P, []))
    wait_until(lambda: lanes.size == 0, timeout=20)
    lanes.close()
    for thread in threads:
        thread.join(5)
    assert watch.broken == []
    assert sorted(watch.handled) == list(range(3000))
    assert all(offsets == sorted(offsets) for offsets in watch.order.values())
    assert ledger.to_commit() == {P: 3000}
