"""The ledger: how far a partition may be committed, and what counts as what."""

from __future__ import annotations

import random

from rebound_celery.consumer.ledger import Job, Ledger, Partition
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


def admit(ledger: Ledger, *offsets: int) -> list[Job]:
    jobs, _ = ledger.admit(P, [(offset, record(offset)) for offset in offsets])
    return jobs


def test_the_mark_is_the_first_offset_that_is_not_done() -> None:
    ledger = Ledger()
    first, second, third = admit(ledger, 10, 11, 12)
    assert ledger.to_commit() == {P: 10}
    ledger.succeed(second)
    assert ledger.to_commit() == {P: 10}
    ledger.succeed(first)
    assert ledger.to_commit() == {P: 12}
    ledger.succeed(third)
    assert ledger.to_commit() == {P: 13}


def test_gaps_in_the_offsets_are_passed_over() -> None:
    ledger = Ledger()
    jobs = admit(ledger, 5, 9, 40)
    ledger.succeed(jobs[1])
    ledger.succeed(jobs[0])
    assert ledger.to_commit() == {P: 40}
    ledger.succeed(jobs[2])
    assert ledger.to_commit() == {P: 41}


def test_a_confirmed_mark_is_not_committed_again() -> None:
    ledger = Ledger()
    (job,) = admit(ledger, 0)
    ledger.succeed(job)
    ledger.confirm(ledger.to_commit())
    assert ledger.to_commit() == {}


def test_a_leaving_partition_is_left_to_the_rebalance() -> None:
    ledger = Ledger()
    (job,) = admit(ledger, 0)
    ledger.succeed(job)
    tracker = job.tracker
    tracker.leaving = True
    assert ledger.to_commit() == {}
    assert ledger.to_commit([tracker]) == {P: 1}


def test_an_abandoned_record_holds_the_mark_and_counts_as_error() -> None:
    ledger = Ledger()
    first, second = admit(ledger, 0, 1)
    ledger.abandon(first)
    ledger.succeed(second)
    assert ledger.to_commit() == {P: 0}
    assert ledger.busy([first.tracker]) == 0
    assert (ledger.stats().errors, ledger.stats().successful, ledger.stats().total) == (1, 1, 2)


def test_what_finishes_after_the_partition_went_away_is_ignored() -> None:
    ledger = Ledger()
    running, failed, waiting = admit(ledger, 0, 1, 2)
    assert ledger.forget(running.tracker, not_begun=1) == 2
    ledger.succeed(running)
    ledger.stored([(failed, False)])
    ledger.abandon(waiting)
    stats = ledger.stats()
    assert (stats.total, stats.errors) == (2, 2)
    assert ledger.trackers() == []
    again = admit(ledger, 0)
    assert again[0].tracker is not running.tracker
    assert ledger.to_commit() == {P: 0}


def test_records_of_other_groups_are_done_at_once() -> None:
    ledger = Ledger()
    jobs, _ = ledger.admit(P, [(0, None), (1, record(1)), (2, None)])
    assert [job.record.offset for job in jobs] == [1]
    assert ledger.to_commit() == {P: 1}
    ledger.succeed(jobs[0])
    assert ledger.to_commit() == {P: 3}
    assert (ledger.stats().skipped, ledger.stats().total) == (2, 1)


def test_offsets_that_go_back_begin_a_new_count() -> None:
    ledger = Ledger()
    (old,) = admit(ledger, 500)
    jobs, replaced = ledger.admit(P, [(0, record(0))])
    assert replaced is old.tracker
    ledger.forget(replaced, 0)
    ledger.succeed(jobs[0])
    assert ledger.to_commit() == {P: 1}


def test_any_order_of_completion_ends_at_the_same_mark() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        ledger = Ledger()
        offsets = sorted(chance.sample(range(1000), 60))
        jobs = admit(ledger, *offsets)
        chance.shuffle(jobs)
        undone = set(offsets)
        for job in jobs:
            ledger.succeed(job)
            undone.discard(job.record.offset)
            mark = ledger.to_commit()[P]
            assert mark == (min(undone) if undone else offsets[-1] + 1)
        assert ledger.loads()[P].span == 0
