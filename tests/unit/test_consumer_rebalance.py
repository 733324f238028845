"""The rebalance listener: partitions that it has tracked before, and new partitions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from rebound_celery.consumer.key_queues import KeyQueues
from rebound_celery.consumer.offset_tracker import OffsetTracker
from rebound_celery.consumer.partition_tracker import Mark
from rebound_celery.consumer.positions import Positions
from rebound_celery.consumer.rebalance import RebalanceListener
from tests.unit.test_consumer_offset_tracker import P, admit

PARTITION = TopicPartition(*P)


class Kafka:
    """A KafkaConsumer, as far as the listener calls it."""

    def __init__(self) -> None:
        self.config = {"max_poll_interval_ms": 300_000}
        self.generation = 1
        self.assigned = {PARTITION}
        self.sought: list[int] = []
        self.now_paused: set[TopicPartition] = set()
        self.committed: list[dict[TopicPartition, Any]] = []

    def group_metadata(self) -> SimpleNamespace:
        return SimpleNamespace(generation_id=self.generation, member_id="me")

    def assignment(self) -> set[TopicPartition]:
        return self.assigned

    def subscription(self) -> set[str]:
        return {P.topic}

    def seek(self, _partition: TopicPartition, offset: int) -> None:
        self.sought.append(offset)

    def pause(self, *partitions: TopicPartition) -> None:
        self.now_paused |= set(partitions)

    def commit_async(self, offsets: dict[TopicPartition, Any]) -> SimpleNamespace:
        self.committed.append(offsets)
        return SimpleNamespace(is_done=True, value=None, succeeded=lambda: True)


class Group:
    """A listener with its surroundings."""

    def __init__(self) -> None:
        self.kafka, self.offset_tracker = Kafka(), OffsetTracker()
        self.key_queues = KeyQueues(0, threading.Event())
        self.positions = Positions(self.kafka, self.offset_tracker)
        self.listener = RebalanceListener(self.kafka, self.offset_tracker, self.key_queues, self.positions)

    def have(self, *offsets: int) -> None:
        """Have fetched these records, of which none is started."""
        self.offset_tracker.open(P, Mark(offsets[0]))
        self.key_queues.add(admit(self.offset_tracker, *offsets))

    def assign(self) -> None:
        run(self.listener.on_partitions_assigned([PARTITION]))

    def revoke(self) -> None:
        run(self.listener.on_partitions_revoked([PARTITION]))


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


@pytest.fixture
def group() -> Group:
    return Group()


def test_new_partition_waits_for_its_committed_offset(group: Group) -> None:
    group.assign()

    assert list(group.positions.unknown) == [PARTITION]
    assert group.kafka.now_paused == {PARTITION}


def test_partition_that_comes_back_in_the_next_generation_goes_on(group: Group) -> None:
    group.have(5, 6, 7)
    group.revoke()
    assert group.key_queues.size == 0
    group.kafka.generation += 1
    group.assign()

    assert (list(group.positions.unknown), group.kafka.sought) == ([], [8])
    assert group.key_queues.size == 3


def test_partition_that_is_assigned_twice_keeps_its_tracker(group: Group) -> None:
    group.have(5, 6, 7)
    group.assign()

    assert (list(group.positions.unknown), group.kafka.now_paused) == ([], set())
    assert group.key_queues.size == 3


def test_after_a_missed_generation_the_committed_offset_is_asked_for(group: Group) -> None:
    group.have(5, 6, 7)
    group.revoke()
    group.kafka.generation += 2
    group.assign()

    assert list(group.positions.unknown) == [PARTITION]
    assert group.offset_tracker.trackers() == []
    assert group.key_queues.size == 0


def test_question_for_a_partition_that_is_gone_is_dropped(group: Group) -> None:
    group.assign()
    group.kafka.assigned = set()
    run(group.listener.on_partitions_assigned([]))

    assert list(group.positions.unknown) == []


def test_cooperative_assignment_keeps_the_questions_of_earlier_ones(group: Group) -> None:
    """A cooperative assignor names only the partitions that are added."""
    group.assign()
    other = TopicPartition(P.topic, 9)
    group.kafka.assigned = {PARTITION, other}
    run(group.listener.on_partitions_assigned([other]))

    assert set(group.positions.unknown) == {PARTITION, other}
