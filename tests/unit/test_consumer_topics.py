"""The errors and log lines about a consumer's topics at the start."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from rebound_celery.consumer import ConsumerConfig
from rebound_celery.consumer.topics import PatternWatch, check_topics, report_start
from rebound_celery.errors import InvalidSettingError
from tests.unit.test_consumer_stalls import FakeClock

ONE, TWO = TopicPartition("orders", 0), TopicPartition("orders", 1)


class Kafka:
    """A KafkaConsumer, as far as the module asks it."""

    def __init__(self, *topics: str, reset: str = "earliest") -> None:
        self.present = set(topics)
        self.config = {"auto_offset_reset": reset}
        self.matched: set[str] | None = None

    def topics(self) -> set[str]:
        return self.present

    def subscription(self) -> set[str] | None:
        return self.matched

    def beginning_offsets(self, partitions: Any, timeout_ms: int) -> dict[TopicPartition, int]:
        return {ONE: 10, TWO: 0}

    def end_offsets(self, partitions: Any, timeout_ms: int) -> dict[TopicPartition, int]:
        return {ONE: 15, TWO: 3}


def config(topics: Any, **fields: Any) -> ConsumerConfig:
    return ConsumerConfig(group="billing", topics=topics, handler=print, **fields)


def test_topics_that_exist_are_right() -> None:
    check_topics(Kafka("orders", "orders-retry"), config(["orders"], retry_topic="orders-retry"))


def test_topic_that_does_not_exist_is_an_error_with_near_matches() -> None:
    kafka = Kafka("orders", "orders-eu", "payments")

    with pytest.raises(InvalidSettingError, match=r"topics='ordrs'.*orders.*allow_auto_create") as raised:
        check_topics(kafka, config(["payments", "ordrs"]))

    assert "payments" not in raised.value.allowed


def test_retry_topic_that_does_not_exist_is_named_as_such() -> None:
    with pytest.raises(InvalidSettingError, match="retry_topic='again'"):
        check_topics(Kafka("orders"), config("orders", retry_topic="again"))


@pytest.mark.parametrize(
    ("topics", "fields"), [("ordrs", {"allow_auto_create": True}), (re.compile("ordrs"), {"retry_topic": "again"})]
)
def test_topics_may_be_missing_where_it_is_asked_for(topics: Any, fields: dict[str, Any]) -> None:
    check_topics(Kafka("orders"), config(topics, **fields))


@pytest.mark.parametrize("retry_topic", [None, "again"])
def test_pattern_that_matches_nothing_is_told_of_every_minute(
    caplog: pytest.LogCaptureFixture, retry_topic: str | None
) -> None:
    kafka, clock = Kafka(), FakeClock()
    watch = PatternWatch(kafka, config(re.compile("ordrs.*"), retry_topic=retry_topic), clock=clock)
    kafka.matched = None if retry_topic is None else {retry_topic}

    for _ in range(130):
        clock.now += 1
        watch.warn_if_nothing_matches()
    assert [line.getMessage().count("ordrs.*") for line in caplog.records] == [1, 1, 1]

    kafka.matched = {"ordrs-eu"}
    for _ in range(130):
        clock.now += 1
        watch.warn_if_nothing_matches()
    assert len(caplog.records) == 3


def test_names_are_no_pattern(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    watch = PatternWatch(Kafka(), config("orders"), clock=clock)
    clock.now += 100
    watch.warn_if_nothing_matches()
    assert not caplog.records


@pytest.mark.parametrize(
    ("reset", "level", "said"),
    [
        (
            "earliest",
            logging.INFO,
            "the first record (auto_offset_reset); 0 records lie before the start and 8",
        ),
        (
            "latest",
            logging.WARNING,
            "the next new record (auto_offset_reset); 8 records lie before the start",
        ),
    ],
)
def test_new_group_says_where_it_starts(caplog: pytest.LogCaptureFixture, reset: str, level: int, said: str) -> None:
    caplog.set_level("INFO")

    report_start(Kafka(reset=reset), "billing", [TWO, ONE])

    (line,) = caplog.records
    assert (line.levelno, line.event) == (level, "group_start")  # type: ignore[attr-defined]
    assert "billing has committed nothing in orders[0], orders[1]" in line.getMessage()
    assert said in line.getMessage()


def test_kafka_that_does_not_tell_its_offsets_is_no_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: Any, **__: Any) -> None:
        raise KafkaTimeoutError

    monkeypatch.setattr(Kafka, "end_offsets", silent)
    caplog.set_level("INFO")

    report_start(Kafka(), "billing", [ONE])

    assert not caplog.records
