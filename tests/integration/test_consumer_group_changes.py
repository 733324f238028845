"""What happens around a running consumer: its topic is deleted, or another consumer takes its place in the group."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import FencedInstanceIdError, OffsetOutOfRangeError

from tests.integration.test_consumer import Fixture, fix, nothing, numbers  # noqa: F401 - `fix` is a fixture
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

needs_apache = pytest.mark.skipif(
    "REBOUND_TEST_KAFKA" not in os.environ, reason="the embedded broker creates no topics and fences no members"
)
#: kafka-python asks for the topics so often.
OFTEN = {"metadata_max_age_ms": 500}


@needs_apache
@pytest.mark.parametrize("allowed", [False, True])
def test_a_deleted_topic_is_created_again_only_if_the_consumer_may(
    fix: Fixture,  # noqa: F811
    make_topic: Callable[..., str],
    produce: Any,
    allowed: bool,
) -> None:
    topic = make_topic(1)
    produce(topic, numbers(3))
    seen: list[bytes | None] = []
    fix.start(topic, lambda record: seen.append(record.value), kafka_options=OFTEN, allow_auto_create=allowed)
    wait_until(lambda: fix.committed(topic) == 3, timeout=30)

    admin = KafkaAdminClient(bootstrap_servers=fix.brokers)
    try:
        admin.delete_topics([topic])
        if allowed:
            wait_until(lambda: topic in admin.list_topics(), timeout=20)
            return
        wait_until(lambda: topic not in admin.list_topics(), timeout=20)
        with pytest.raises(AssertionError):
            wait_until(lambda: topic in admin.list_topics(), timeout=4)
    finally:
        admin.close()

    make_topic(1, topic)
    produce(topic, [(None, b"new", [])])
    wait_until(lambda: b"new" in seen, timeout=30)


@needs_apache
def test_a_consumer_whose_place_in_the_group_another_one_takes_ends(
    fix: Fixture,  # noqa: F811
    topic: str,
) -> None:
    """It handles nothing twice: it ends at its next heartbeat, not at its first commit."""
    options = {"group_instance_id": "the same"}
    first = fix.start(topic, nothing, kafka_options=options)
    wait_until(lambda: fix.committed(topic) is not None, timeout=30)
    second = fix.start(topic, nothing, kafka_options=options)

    with pytest.raises(FencedInstanceIdError):
        wait_until(lambda: first.join(0.1), timeout=20)
    assert second.join(0.1) is False


def delete_up_to(fix: Fixture, topic: str, offset: int) -> None:  # noqa: F811
    """Do what retention does: delete the records below this offset."""
    admin = KafkaAdminClient(bootstrap_servers=fix.brokers)
    try:
        admin.delete_records({TopicPartition(topic, 0): offset})
    finally:
        admin.close()


@needs_apache
@pytest.mark.parametrize(("reset", "next_seen"), [("earliest", 8), ("latest", 10)])
def test_what_kafka_deleted_before_it_was_consumed_is_said(
    fix: Fixture,  # noqa: F811
    make_topic: Callable[..., str],
    produce: Any,
    caplog: pytest.LogCaptureFixture,
    reset: str,
    next_seen: int,
) -> None:
    topic = make_topic(1)
    produce(topic, numbers(5))
    consumer = fix.start(topic, nothing)
    wait_until(lambda: fix.committed(topic) == 5, timeout=30)
    consumer.close(30)
    produce(topic, numbers(5))
    delete_up_to(fix, topic, 8)

    seen: list[int] = []
    fix.start(topic, lambda record: seen.append(record.offset), kafka_options={"auto_offset_reset": reset})

    def lines() -> list[logging.LogRecord]:
        return [line for line in caplog.records if getattr(line, "event", "") == "offset_gone"]

    wait_until(lines, timeout=30)
    produce(topic, numbers(1))
    wait_until(lambda: 10 in seen, timeout=30)
    assert seen[0] == next_seen
    (line,) = lines()
    assert line.levelno == logging.WARNING
    assert f"{topic}[0]: Kafka has deleted the offsets 5 to 7" in line.getMessage()
    assert f"goes on at offset {next_seen}" in line.getMessage()


@needs_apache
def test_a_consumer_that_may_not_reset_its_offset_ends_when_it_is_gone(
    fix: Fixture,  # noqa: F811
    make_topic: Callable[..., str],
    produce: Any,
) -> None:
    topic = make_topic(1)
    produce(topic, numbers(5))
    consumer = fix.start(topic, nothing)
    wait_until(lambda: fix.committed(topic) == 5, timeout=30)
    consumer.close(30)
    produce(topic, numbers(5))
    delete_up_to(fix, topic, 8)

    consumer = fix.start(topic, nothing, kafka_options={"auto_offset_reset": "none"})

    with pytest.raises(OffsetOutOfRangeError):
        consumer.join(30)
