"""The offset tracker: the offset to commit in a partition, and the counts of the records."""

from __future__ import annotations

import json
import random

from rebound_celery.consumer.offset_metadata import decode, encode
from rebound_celery.consumer.offset_tracker import OffsetTracker
from rebound_celery.consumer.partition_tracker import Job, Mark, Partition
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


def offsets(marks: dict[Partition, Mark]) -> dict[Partition, int]:
    return {partition: mark.offset for partition, mark in marks.items()}


def admit(offset_tracker: OffsetTracker, *offsets: int) -> list[Job]:
    jobs, _ = offset_tracker.admit(P, [(offset, record(offset)) for offset in offsets])
    return jobs


def test_the_mark_is_the_first_offset_that_is_not_done() -> None:
    offset_tracker = OffsetTracker()
    first, second, third = admit(offset_tracker, 10, 11, 12)
    assert offsets(offset_tracker.to_commit()) == {P: 10}
    offset_tracker.succeed(second)
    assert offsets(offset_tracker.to_commit()) == {P: 10}
    offset_tracker.succeed(first)
    assert offsets(offset_tracker.to_commit()) == {P: 12}
    offset_tracker.succeed(third)
    assert offsets(offset_tracker.to_commit()) == {P: 13}


def test_a_dropped_record_is_done_and_counted() -> None:
    offset_tracker = OffsetTracker()
    first, second = admit(offset_tracker, 10, 11)

    offset_tracker.drop(first)

    assert offsets(offset_tracker.to_commit()) == {P: 11}
    stats = offset_tracker.stats()
    assert (stats.dropped, stats.dead, stats.total) == (1, 0, 1)
    assert json.loads(stats.to_json())["DroppedMessages"] == 1
    offset_tracker.release(second.tracker, 0)
    offset_tracker.drop(second)
    assert offset_tracker.stats().dropped == 1, "its partition belongs to another consumer by now"


def test_gaps_in_the_offsets_are_passed_over() -> None:
    offset_tracker = OffsetTracker()
    jobs = admit(offset_tracker, 5, 9, 40)
    offset_tracker.succeed(jobs[1])
    offset_tracker.succeed(jobs[0])
    assert offsets(offset_tracker.to_commit()) == {P: 40}
    offset_tracker.succeed(jobs[2])
    assert offsets(offset_tracker.to_commit()) == {P: 41}


def test_a_confirmed_mark_is_not_committed_again() -> None:
    offset_tracker = OffsetTracker()
    (job,) = admit(offset_tracker, 0)
    offset_tracker.succeed(job)
    offset_tracker.confirm(offset_tracker.to_commit())
    assert offset_tracker.to_commit() == {}


def test_a_revoked_partition_is_left_to_the_rebalance() -> None:
    offset_tracker = OffsetTracker()
    (job,) = admit(offset_tracker, 0)
    offset_tracker.succeed(job)
    tracker = job.tracker
    tracker.revoked = True
    assert offset_tracker.to_commit() == {}
    assert offsets(offset_tracker.to_commit([tracker])) == {P: 1}


def test_an_abandoned_record_holds_the_mark_and_counts_as_error() -> None:
    offset_tracker = OffsetTracker()
    first, second = admit(offset_tracker, 0, 1)
    offset_tracker.abandon(first)
    offset_tracker.succeed(second)
    assert offsets(offset_tracker.to_commit()) == {P: 0}
    assert offset_tracker.busy([first.tracker]) == 0
    assert (offset_tracker.stats().errors, offset_tracker.stats().succeeded, offset_tracker.stats().total) == (1, 1, 2)


def test_what_finishes_after_the_partition_went_away_is_ignored() -> None:
    offset_tracker = OffsetTracker()
    running, failed, waiting = admit(offset_tracker, 0, 1, 2)
    assert offset_tracker.release(running.tracker, not_started=1) == 2
    offset_tracker.succeed(running)
    offset_tracker.stored([(failed, False)])
    offset_tracker.abandon(waiting)
    stats = offset_tracker.stats()
    assert (stats.total, stats.errors) == (2, 2)
    assert offset_tracker.trackers() == []
    again = admit(offset_tracker, 0)
    assert again[0].tracker is not running.tracker
    assert offsets(offset_tracker.to_commit()) == {P: 0}


def test_records_of_other_groups_are_done_at_once() -> None:
    offset_tracker = OffsetTracker()
    jobs, _ = offset_tracker.admit(P, [(0, None), (1, record(1)), (2, None)])
    assert [job.record.offset for job in jobs] == [1]
    assert offsets(offset_tracker.to_commit()) == {P: 1}
    offset_tracker.succeed(jobs[0])
    assert offsets(offset_tracker.to_commit()) == {P: 3}
    assert (offset_tracker.stats().skipped, offset_tracker.stats().total) == (2, 1)


def test_offsets_that_go_back_begin_a_new_count() -> None:
    offset_tracker = OffsetTracker()
    (old,) = admit(offset_tracker, 500)
    jobs, replaced = offset_tracker.admit(P, [(0, record(0))])
    assert replaced is old.tracker
    offset_tracker.release(replaced, 0)
    offset_tracker.succeed(jobs[0])
    assert offsets(offset_tracker.to_commit()) == {P: 1}


def test_any_order_of_completion_ends_at_the_same_mark() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        offset_tracker = OffsetTracker()
        numbers = sorted(chance.sample(range(1000), 60))
        jobs = admit(offset_tracker, *numbers)
        chance.shuffle(jobs)
        undone = set(numbers)
        for job in jobs:
            offset_tracker.succeed(job)
            undone.discard(job.record.offset)
            mark = offset_tracker.to_commit()[P].offset
            assert mark == (min(undone) if undone else numbers[-1] + 1)
        assert offset_tracker.loads()[P].span == 0


def test_the_commit_tells_what_is_done_beyond_the_low_water_mark() -> None:
    offset_tracker = OffsetTracker()
    jobs = admit(offset_tracker, 10, 11, 12, 20, 21, 22)
    for job in jobs[1:3] + jobs[4:]:
        offset_tracker.succeed(job)

    mark = offset_tracker.to_commit()[P]

    assert mark.offset == 10
    # What lies between two records that are done has no records.
    assert decode(10, mark.metadata) == [(11, 20), (21, 23)]


def test_what_an_earlier_owner_has_done_is_skipped_once() -> None:
    offset_tracker = OffsetTracker()
    offset_tracker.open(P, Mark(10, "as committed"), [(11, 13), (15, 16)])
    jobs = admit(offset_tracker, 10, 11, 12, 13)
    jobs += admit(offset_tracker, 14, 15, 16)

    assert [job.record.offset for job in jobs] == [10, 13, 14, 16]
    assert offset_tracker.stats().skipped == 3
    assert offset_tracker.busy() == 4
    for job in jobs:
        offset_tracker.succeed(job)
    assert offset_tracker.to_commit() == {P: Mark(17)}


def test_what_an_earlier_owner_has_done_and_nobody_has_fetched_yet_is_committed_again() -> None:
    offset_tracker = OffsetTracker()
    offset_tracker.open(P, Mark(10, "as committed"), [(11, 13), (15, 20)])
    first, second = admit(offset_tracker, 10, 14)
    offset_tracker.succeed(second)

    mark = offset_tracker.to_commit()[P]

    assert mark.offset == 10
    assert decode(10, mark.metadata) == [(14, 15), (15, 20)]
    offset_tracker.succeed(first)
    assert offset_tracker.to_commit()[P] == Mark(15, encode(15, [(15, 20)]))


def test_any_crash_repeats_only_what_was_not_done() -> None:
    for seed in range(100):
        chance = random.Random(seed)
        numbers = sorted(chance.sample(range(300), 100))
        handled: set[int] = set()
        committed: Mark | None = None
        while committed is None or committed.offset <= numbers[-1]:
            tracker = OffsetTracker()
            start = 0 if committed is None else committed.offset
            tracker.open(P, committed, [] if committed is None else decode(start, committed.metadata))
            jobs = admit(tracker, *[number for number in numbers if number >= start][: chance.randrange(1, 60)])
            assert not handled & {job.record.offset for job in jobs}
            for job in chance.sample(jobs, chance.randrange(len(jobs) + 1)):
                tracker.succeed(job)
                handled.add(job.record.offset)
            committed = tracker.to_commit().get(P, committed)
        assert handled == set(numbers)


def test_an_offset_behind_the_last_record_is_committed_when_all_before_it_is_done() -> None:
    offset_tracker = OffsetTracker()
    (job,) = admit(offset_tracker, 5)
    offset_tracker.advance({P: 8})
    assert offset_tracker.to_commit() == {P: Mark(5)}
    offset_tracker.succeed(job)
    assert offset_tracker.to_commit() == {P: Mark(8)}
    offset_tracker.advance({P: 7})
    assert offset_tracker.to_commit() == {P: Mark(8)}, "not confirmed yet"


def test_a_partition_without_records_is_committed_where_it_was_read_to() -> None:
    offset_tracker = OffsetTracker()
    offset_tracker.open(P)
    assert offset_tracker.to_commit() == {}
    offset_tracker.advance({P: 40})
    assert offset_tracker.to_commit() == {P: Mark(40)}


def test_metadata_may_be_shortened_or_left_out() -> None:
    offset_tracker = OffsetTracker()
    jobs = admit(offset_tracker, *range(100))
    for job in jobs[1::2]:
        offset_tracker.succeed(job)
    offset_tracker.max_metadata = 0
    assert offset_tracker.to_commit() == {P: Mark(0)}


def test_a_commit_that_failed_is_sent_again() -> None:
    offset_tracker = OffsetTracker()
    (job,) = admit(offset_tracker, 0)
    offset_tracker.succeed(job)
    marks = offset_tracker.to_commit()
    assert offset_tracker.to_commit() == marks
