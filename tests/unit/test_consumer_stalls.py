"""The conditions under which a partition counts as stalled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from rebound_celery.consumer.stall_detector import STALL_TIMEOUT_S, FetchState, StallDetector

ONE, TWO = TopicPartition("t", 0), TopicPartition("t", 1)


class Kafka:
    """A KafkaConsumer, as far as the detector asks it."""

    def __init__(self) -> None:
        self.at = {ONE: 5, TWO: 7}
        self.ends: Any = {ONE: 5, TWO: 7}
        self.sought: list[tuple[TopicPartition, int]] = []

    def assignment(self) -> set[TopicPartition]:
        return set(self.at)

    @property
    def _subscription(self) -> Any:
        found = {p: SimpleNamespace(position=SimpleNamespace(offset=offset)) for p, offset in self.at.items()}
        return SimpleNamespace(assignment=found)

    def end_offsets(self, partitions: list[TopicPartition], timeout_ms: int) -> dict[TopicPartition, int]:
        if self.ends is None:
            raise KafkaTimeoutError
        return {partition: self.ends[partition] for partition in partitions}

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self.sought.append((partition, offset))


class FakeClock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def now_ms(self) -> int:
        return int(self.now * 1000)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


def checks(
    detector: StallDetector, kafka: Kafka, clock: FakeClock, seconds: float, exempt: Any = ()
) -> list[FetchState]:
    found = []
    for _ in range(round(seconds)):
        clock.now += 1
        found.append(detector.check(kafka, exempt))
    return found


def test_remedies_follow_one_another_until_it_is_reported(kafka: Kafka, clock: FakeClock) -> None:
    kafka.ends[ONE] = 6

    found = checks(StallDetector(clock=clock), kafka, clock, 5 * STALL_TIMEOUT_S)

    assert kafka.sought == [(ONE, 5)]
    assert found.count(FetchState.REPLACE) == 1
    assert found[-1] is FetchState.STALLED
    assert found.index(FetchState.REPLACE) > STALL_TIMEOUT_S
    assert FetchState.STALLED not in found[: found.index(FetchState.REPLACE)]


def test_partition_that_moves_is_well_however_large_its_lag(kafka: Kafka, clock: FakeClock) -> None:
    detector = StallDetector(clock=clock)
    kafka.ends[ONE] = 10**9
    for _ in range(10):
        assert set(checks(detector, kafka, clock, STALL_TIMEOUT_S - 1)) == {FetchState.OK}
        kafka.at[ONE] += 1

    assert kafka.sought == []


@pytest.mark.parametrize("end", [5, 4, 0], ids=["no lag", "Tansu's end", "no end"])
def test_partition_at_its_end_or_past_what_is_told_of_it_is_well(kafka: Kafka, clock: FakeClock, end: int) -> None:
    kafka.ends[ONE] = end

    assert set(checks(StallDetector(clock=clock), kafka, clock, 10 * STALL_TIMEOUT_S)) == {FetchState.OK}


def test_exempt_partition_and_silent_kafka_are_no_stall(kafka: Kafka, clock: FakeClock) -> None:
    kafka.ends[ONE] = 6
    assert set(checks(StallDetector(clock=clock), kafka, clock, 10 * STALL_TIMEOUT_S, exempt={ONE})) == {FetchState.OK}

    kafka.ends = None
    assert set(checks(StallDetector(clock=clock), kafka, clock, 10 * STALL_TIMEOUT_S)) == {FetchState.OK}


def test_reset_begins_the_time_anew(kafka: Kafka, clock: FakeClock) -> None:
    detector = StallDetector(clock=clock)
    kafka.ends[ONE] = 6
    for _ in range(5):
        assert set(checks(detector, kafka, clock, STALL_TIMEOUT_S - 1)) == {FetchState.OK}
        detector.reset()

    assert kafka.sought == []


def test_partition_that_another_consumer_has_now_is_forgotten(kafka: Kafka, clock: FakeClock) -> None:
    detector = StallDetector(clock=clock)
    kafka.ends[ONE] = 6
    checks(detector, kafka, clock, 4 * STALL_TIMEOUT_S)
    del kafka.at[ONE]

    assert checks(detector, kafka, clock, 1) == [FetchState.OK]
