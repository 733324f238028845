"""When a partition counts as stalled, and when it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from rebound_celery.consumer import stall_watch as stalls
from rebound_celery.consumer.stall_watch import PATIENCE_S, StallWatch, Verdict

ONE, TWO = TopicPartition("t", 0), TopicPartition("t", 1)


class Kafka:
    """A KafkaConsumer, as far as the watch asks it."""

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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1_000.0]
    monkeypatch.setattr(stalls, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


def looks(watch: StallWatch, kafka: Kafka, clock: list[float], seconds: float, exempt: Any = ()) -> list[Verdict]:
    found = []
    for _ in range(round(seconds)):
        clock[0] += 1
        found.append(watch.look(kafka, exempt))
    return found


def test_remedies_follow_one_another_until_it_is_reported(kafka: Kafka, clock: list[float]) -> None:
    kafka.ends[ONE] = 6

    found = looks(StallWatch(), kafka, clock, 5 * PATIENCE_S)

    assert kafka.sought == [(ONE, 5)]
    assert found.count(Verdict.RENEW) == 1
    assert found[-1] is Verdict.STALLED
    assert found.index(Verdict.RENEW) > PATIENCE_S
    assert Verdict.STALLED not in found[: found.index(Verdict.RENEW)]


def test_partition_that_moves_is_well_however_large_its_lag(kafka: Kafka, clock: list[float]) -> None:
    watch = StallWatch()
    kafka.ends[ONE] = 10**9
    for _ in range(10):
        assert set(looks(watch, kafka, clock, PATIENCE_S - 1)) == {Verdict.WELL}
        kafka.at[ONE] += 1

    assert kafka.sought == []


@pytest.mark.parametrize("end", [5, 4, 0], ids=["no lag", "Tansu's end", "no end"])
def test_partition_at_its_end_or_past_what_is_told_of_it_is_well(kafka: Kafka, clock: list[float], end: int) -> None:
    kafka.ends[ONE] = end

    assert set(looks(StallWatch(), kafka, clock, 10 * PATIENCE_S)) == {Verdict.WELL}


def test_exempt_partition_and_silent_kafka_are_no_stall(kafka: Kafka, clock: list[float]) -> None:
    kafka.ends[ONE] = 6
    assert set(looks(StallWatch(), kafka, clock, 10 * PATIENCE_S, exempt={ONE})) == {Verdict.WELL}

    kafka.ends = None
    assert set(looks(StallWatch(), kafka, clock, 10 * PATIENCE_S)) == {Verdict.WELL}


def test_excuse_begins_the_time_anew(kafka: Kafka, clock: list[float]) -> None:
    watch = StallWatch()
    kafka.ends[ONE] = 6
    for _ in range(5):
        assert set(looks(watch, kafka, clock, PATIENCE_S - 1)) == {Verdict.WELL}
        watch.excuse()

    assert kafka.sought == []


def test_partition_that_another_consumer_has_now_is_forgotten(kafka: Kafka, clock: list[float]) -> None:
    watch = StallWatch()
    kafka.ends[ONE] = 6
    looks(watch, kafka, clock, 4 * PATIENCE_S)
    del kafka.at[ONE]

    assert looks(watch, kafka, clock, 1) == [Verdict.WELL]
