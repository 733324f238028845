"""The offset_tracker: how far a partition may be committed, and what counts as what."""

from __future__ import annotations

import random

from rebound_celery.consumer.offset_tracker import Job, OffsetTracker, Partition
from rebound_celery.message import Origin, Record

P = Partition("orders", 3)


def record(offset: int, key: bytes | None = None) -> Record:
    return Record(
        topic=P.topic,
        partition=P.partition,
        offset=offset,
        timestamp=0,
        key=key,
        value=b"",
        headers=(),
        id=str(offset),
        origin=Origin(P.topic, P.partition, offset, 0),
    )


def admit(offset_tracker: OffsetTracker, *offsets: int) -> list[Job]:
    jobs, _ = offset_tracker.admit(P, [(offset, record(offset)) for offset in offsets])
    return jobs


def test_the_mark_is_the_first_offset_that_is_not_done() -> None:
    offset_tracker = OffsetTracker()
    first, second, third = admit(offset_tracker, 10, 11, 12)
    assert offset_tracker.to_commit() == {P: 10}
    offset_tracker.succeed(second)
    assert offset_tracker.to_commit() == {P: 10}
    offset_tracker.succeed(first)
    assert offset_tracker.to_commit() == {P: 12}
    offset_tracker.succeed(third)
    assert offset_tracker.to_commit() == {P: 13}


def test_gaps_in_the_offsets_are_passed_over() -> None:
    offset_tracker = OffsetTracker()
    jobs = admit(offset_tracker, 5, 9, 40)
    offset_tracker.succeed(jobs[1])
    offset_tracker.succeed(jobs[0])
    assert offset_tracker.to_commit() == {P: 40}
    offset_tracker.succeed(jobs[2])
    assert offset_tracker.to_commit() == {P: 41}


def test_a_confirmed_mark_is_not_committed_again() -> None:
    offset_tracker = OffsetTracker()
    (job,) = admit(offset_tracker, 0)
    offset_tracker.succeed(job)
    offset_tracker.confirm(offset_tracker.to_commit())
    assert offset_tracker.to_commit() == {}


def test_a_leaving_partition_is_left_to_the_rebalance() -> None:
    offset_tracker = OffsetTracker()
    (job,) = admit(offset_tracker, 0)
    offset_tracker.succeed(job)
    tracker = job.tracker
    tracker.leaving = True
    assert offset_tracker.to_commit() == {}
    assert offset_tracker.to_commit([tracker]) == {P: 1}


def test_an_abandoned_record_holds_the_mark_and_counts_as_error() -> None:
    offset_tracker = OffsetTracker()
    first, second = admit(offset_tracker, 0, 1)
    offset_tracker.abandon(first)
    offset_tracker.succeed(second)
    assert offset_tracker.to_commit() == {P: 0}
    assert offset_tracker.busy([first.tracker]) == 0
    assert (offset_tracker.stats().errors, offset_tracker.stats().succeeded, offset_tracker.stats().total) == (1, 1, 2)


def test_what_finishes_after_the_partition_went_away_is_ignored() -> None:
    offset_tracker = OffsetTracker()
    running, failed, waiting = admit(offset_tracker, 0, 1, 2)
    assert offset_tracker.forget(running.tracker, not_begun=1) == 2
    offset_tracker.succeed(running)
    offset_tracker.stored([(failed, False)])
    offset_tracker.abandon(waiting)
    stats = offset_tracker.stats()
    assert (stats.total, stats.errors) == (2, 2)
    assert offset_tracker.trackers() == []
    again = admit(offset_tracker, 0)
    assert again[0].tracker is not running.tracker
    assert offset_tracker.to_commit() == {P: 0}


def test_records_of_other_groups_are_done_at_once() -> None:
    offset_tracker = OffsetTracker()
    jobs, _ = offset_tracker.admit(P, [(0, None), (1, record(1)), (2, None)])
    assert [job.record.offset for job in jobs] == [1]
    assert offset_tracker.to_commit() == {P: 1}
    offset_tracker.succeed(jobs[0])
    assert offset_tracker.to_commit() == {P: 3}
    assert (offset_tracker.stats().skipped, offset_tracker.stats().total) == (2, 1)


def test_offsets_that_go_back_begin_a_new_count() -> None:
    offset_tracker = OffsetTracker()
    (old,) = admit(offset_tracker, 500)
    jobs, replaced = offset_tracker.admit(P, [(0, record(0))])
    assert replaced is old.tracker
    offset_tracker.forget(replaced, 0)
    offset_tracker.succeed(jobs[0])
    assert offset_tracker.to_commit() == {P: 1}


def test_any_order_of_completion_ends_at_the_same_mark() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        offset_tracker = OffsetTracker()
        offsets = sorted(chance.sample(range(1000), 60))
        jobs = admit(offset_tracker, *offsets)
        chance.shuffle(jobs)
        undone = set(offsets)
        for job in jobs:
            offset_tracker.succeed(job)
            undone.discard(job.record.offset)
            mark = offset_tracker.to_commit()[P]
            assert mark == (min(undone) if undone else offsets[-1] + 1)
        assert offset_tracker.loads()[P].span == 0
