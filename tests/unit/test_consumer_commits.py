"""A record that is done is committed soon, and the loop waits for no longer than until then."""

from __future__ import annotations

from typing import Any, cast

import pytest
from kafka import KafkaConsumer
from kafka.errors import RebalanceInProgressError

from rebound_celery.consumer.commits import Commits
from rebound_celery.consumer.offset_tracker import OffsetTracker
from rebound_celery.consumer.partition_tracker import Mark
from tests.unit.test_consumer_offset_tracker import P as PARTITION
from tests.unit.test_consumer_offset_tracker import record


class Kafka:
    """A KafkaConsumer that keeps the callback of a commit until the test answers."""

    def __init__(self) -> None:
        self.callbacks: list[Any] = []

    def commit_async(self, offsets: object, callback: Any) -> None:
        self.callbacks.append(callback)

    def answer(self, result: object = None) -> None:
        self.callbacks.pop()({}, result)


class StoppedClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> StoppedClock:
    return StoppedClock()


@pytest.fixture
def tracker() -> OffsetTracker:
    """A tracker of a partition that is read and committed up to offset 5."""
    tracker = OffsetTracker()
    tracker.open(PARTITION, Mark(5))
    assert not tracker.to_commit()
    return tracker


def handle_one(tracker: OffsetTracker, offset: int = 5) -> None:
    jobs, _ = tracker.admit(PARTITION, [(offset, record(offset))])
    tracker.succeed(jobs[0])


def test_a_record_that_is_done_makes_a_commit_due(tracker: OffsetTracker, clock: StoppedClock) -> None:
    kafka = Kafka()
    commits = Commits(cast("KafkaConsumer", kafka), tracker, 2.0, lambda: None, clock=cast("Any", clock))
    assert commits.due_in_s() is None

    handle_one(tracker)
    assert commits.due_in_s() == 2.0
    clock.now += 1.5
    assert commits.due_in_s() == 0.5
    clock.now += 1
    assert commits.due_in_s() == 0

    commits.send_if_due()
    assert commits.due_in_s() == 0, "the answer is awaited"
    kafka.answer()
    assert commits.due_in_s() is None


def test_a_kafka_that_gives_no_answer_is_not_waited_for_with_short_polls(
    tracker: OffsetTracker, clock: StoppedClock
) -> None:
    kafka = Kafka()
    commits = Commits(cast("KafkaConsumer", kafka), tracker, 2.0, lambda: None, clock=cast("Any", clock))
    handle_one(tracker)
    clock.now += 2
    commits.send_if_due()
    clock.now += 0.1
    assert commits.due_in_s() == 0
    clock.now += 0.2
    assert commits.due_in_s() is None


def test_a_refused_commit_is_not_tried_again_at_once(tracker: OffsetTracker, clock: StoppedClock) -> None:
    kafka = Kafka()
    commits = Commits(cast("KafkaConsumer", kafka), tracker, 0.005, lambda: None, clock=cast("Any", clock))
    handle_one(tracker)
    clock.now += 1
    commits.send_if_due()
    kafka.answer(RebalanceInProgressError())
    assert commits.due_in_s() == pytest.approx(0.1)


def test_a_record_that_is_done_during_a_commit_is_in_the_next_commit(
    tracker: OffsetTracker, clock: StoppedClock
) -> None:
    kafka = Kafka()
    commits = Commits(cast("KafkaConsumer", kafka), tracker, 2.0, lambda: None, clock=cast("Any", clock))
    handle_one(tracker)
    clock.now += 2
    commits.send_if_due()
    handle_one(tracker, 6)
    kafka.answer()

    assert commits.due_in_s() == 2.0
