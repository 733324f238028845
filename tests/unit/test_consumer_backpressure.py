"""After an assignment a consumer begins with few records, so that a crash in a backlog repeats few."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import pytest
from kafka import KafkaConsumer

from rebound_celery.consumer.backpressure import Backpressure
from rebound_celery.consumer.offset_tracker import OffsetTracker
from rebound_celery.consumer.partition_tracker import Job, Mark
from tests.unit.test_consumer_offset_tracker import P as PARTITION
from tests.unit.test_consumer_offset_tracker import record

LIMIT = 1000


class Kafka:
    """A KafkaConsumer with one partition."""

    def __init__(self) -> None:
        self.config = {"max_poll_records": 500}
        self._paused: set[Any] = set()

    def assignment(self) -> set[Any]:
        return {PARTITION}

    def paused(self) -> set[Any]:
        return set(self._paused)

    def pause(self, *partitions: Any) -> None:
        self._paused |= set(partitions)

    def resume(self, *partitions: Any) -> None:
        self._paused -= set(partitions)


@pytest.fixture
def tracker() -> OffsetTracker:
    tracker = OffsetTracker()
    tracker.open(PARTITION, Mark(0))
    assert not tracker.to_commit()
    return tracker


class StoppedClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def make(
    tracker: OffsetTracker, concurrency: int = 4, commit_interval_s: float = 0.005, clock: StoppedClock | None = None
) -> Backpressure:
    kafka = cast("KafkaConsumer", Kafka())
    clock = clock or StoppedClock()
    return Backpressure(kafka, tracker, LIMIT, concurrency, commit_interval_s, clock=cast("Any", clock))


def fetch(tracker: OffsetTracker, backpressure: Backpressure, start: int) -> list[Job]:
    """Let a poll return as many records as there is room for."""
    backpressure.regulate(closed=False)
    assert not backpressure.is_full
    jobs, _ = tracker.admit(PARTITION, [(start + n, record(start + n)) for n in range(backpressure.room)])
    return jobs


def commit(tracker: OffsetTracker, backpressure: Backpressure) -> None:
    marks = tracker.to_commit()
    assert marks
    tracker.confirm(marks)
    backpressure.commit_answered()


@pytest.mark.parametrize(("concurrency", "first"), [(1, 8), (4, 8), (8, 16), (100, 200)])
def test_the_first_records_are_few(tracker: OffsetTracker, concurrency: int, first: int) -> None:
    assert len(fetch(tracker, make(tracker, concurrency), 0)) == first


def test_no_more_are_fetched_until_kafka_has_answered_the_commit(tracker: OffsetTracker) -> None:
    backpressure = make(tracker)
    for job in fetch(tracker, backpressure, 0):
        tracker.succeed(job)

    backpressure.regulate(closed=False)

    assert backpressure.is_full
    assert backpressure.awaits_commit
    commit(tracker, backpressure)
    assert len(fetch(tracker, backpressure, 8)) == 10


def test_the_number_grows_until_it_is_no_limit_any_more(tracker: OffsetTracker) -> None:
    backpressure = make(tracker)
    handled, rooms = 0, []
    while len(rooms) < 30:
        jobs = fetch(tracker, backpressure, handled)
        rooms.append(len(jobs))
        for job in jobs:
            tracker.succeed(job)
        handled += len(jobs)
        commit(tracker, backpressure)

    assert rooms[:6] == [8, 10, 12, 15, 18, 22]
    assert all(later <= earlier * 5 // 4 for earlier, later in pairwise(rooms))

    for job in fetch(tracker, backpressure, handled):
        tracker.succeed(job)
    assert len(fetch(tracker, backpressure, handled + 500)) == 500, "what is not committed is no limit any more"


def test_a_new_assignment_begins_with_few_records_again(tracker: OffsetTracker) -> None:
    backpressure = make(tracker)
    for _ in range(20):
        backpressure.commit_answered()
    backpressure.begin()

    assert len(fetch(tracker, backpressure, 0)) == 8


def test_records_that_hang_do_not_hold_up_the_others_for_long(tracker: OffsetTracker) -> None:
    clock = StoppedClock()
    backpressure = make(tracker, clock=clock)
    fetch(tracker, backpressure, 0)
    backpressure.regulate(closed=False)
    assert backpressure.is_full

    clock.now += 5

    assert len(fetch(tracker, backpressure, 8)) == 500


def test_with_rare_commits_there_is_no_beginning(tracker: OffsetTracker) -> None:
    assert len(fetch(tracker, make(tracker, commit_interval_s=5), 0)) == 500


def test_a_full_memory_is_no_wait_for_a_commit(tracker: OffsetTracker) -> None:
    backpressure = make(tracker, commit_interval_s=5)
    fetch(tracker, backpressure, 0)
    fetch(tracker, backpressure, 500)

    backpressure.regulate(closed=False)

    assert backpressure.is_full
    assert not backpressure.awaits_commit
