"""Positions of a group: after transaction markers, in a partition of an earlier owner, and in a new partition."""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from rebound_celery.consumer import Consumer, ConsumerConfig
from rebound_celery.errors import InvalidSettingError
from tests.integration.test_consumer import Fixture, fix, nothing, numbers  # noqa: F401 - `fix` is a fixture
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebound_celery.message import Record

APACHE = "REBOUND_TEST_KAFKA" in os.environ
needs_metadata = pytest.mark.skipif(not APACHE, reason="the embedded broker keeps no metadata of commits")
needs_transactions = pytest.mark.skipif(not APACHE, reason="the embedded broker has no transactions")


def lag(fix: Fixture, topic: str) -> int:  # noqa: F811
    partition = TopicPartition(topic, 0)
    reader = KafkaConsumer(bootstrap_servers=fix.brokers)
    try:
        return reader.end_offsets([partition])[partition] - (fix.committed(topic) or 0)
    finally:
        reader.close()


def events(caplog: pytest.LogCaptureFixture) -> Counter[str]:
    return Counter(getattr(line, "event", "") for line in caplog.records)


@needs_transactions
@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_lag_is_zero_behind_transaction_markers_and_aborted_records(
    fix: Fixture,  # noqa: F811
    make_topic: Callable[..., str],
    isolation: str,
) -> None:
    topic = make_topic(1)
    seen: list[bytes | None] = []
    consumer = fix.start(topic, lambda record: seen.append(record.value), kafka_options={"isolation_level": isolation})
    producer = KafkaProducer(bootstrap_servers=fix.brokers, transactional_id=topic)
    try:
        producer.init_transactions()
        for value, end in ((b"1", producer.commit_transaction), (b"2", producer.abort_transaction)):
            producer.begin_transaction()
            producer.send(topic, value, partition=0)
            producer.flush()
            end()
    finally:
        producer.close()

    wait_until(lambda: b"1" in seen, timeout=30)
    wait_until(lambda: lag(fix, topic) == 0, timeout=20, message=lambda: f"a lag of {lag(fix, topic)}")
    consumer.close(30)
    assert (b"2" in seen) == (isolation == "read_uncommitted")


@needs_metadata
def test_who_takes_a_partition_over_skips_what_is_done_behind_a_hung_record(
    fix: Fixture,  # noqa: F811
    make_topic: Callable[..., str],
    produce: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic = make_topic(1)
    release = threading.Event()
    calls: Counter[int] = Counter()

    def handler(record: Record) -> None:
        calls[record.offset] += 1
        if record.offset in (2, 50):
            release.wait(60)
        if record.offset % 10 == 7:
            raise ValueError("its retry is stored, so it is done")

    produce(topic, numbers(100))
    first = fix.start(topic, handler, concurrency=4, stop_timeout=0.2)
    wait_until(lambda: first.stats().total == 98, timeout=30)
    first.close(10)
    assert fix.committed(topic) == 2
    release.set()
    second = fix.start(topic, handler)
    wait_until(lambda: fix.committed(topic) == 100, timeout=30)

    assert {offset: times for offset, times in calls.items() if times > 1} == {2: 2, 50: 2}
    assert (second.stats().total, second.stats().skipped) == (2, 96)
    assert events(caplog)["completed_skipped"] == 1


@needs_metadata
@pytest.mark.parametrize("metadata", ["NO_METADATA", "rebound-done-9:later", "rebound-done-1:damaged"])
def test_metadata_of_others_is_ignored_with_one_line(
    fix: Fixture,  # noqa: F811
    make_topic: Callable[..., str],
    produce: Any,
    caplog: pytest.LogCaptureFixture,
    metadata: str,
) -> None:
    topic = make_topic(1)
    produce(topic, numbers(4))
    partition = TopicPartition(topic, 0)
    other = KafkaConsumer(bootstrap_servers=fix.brokers, group_id=fix.group, enable_auto_commit=False)
    other.assign([partition])
    other.commit({partition: OffsetAndMetadata(1, metadata, -1)})
    other.close()
    seen: list[int] = []

    fix.start(topic, lambda record: seen.append(record.offset))

    wait_until(lambda: fix.committed(topic) == 4, timeout=30)
    assert sorted(seen) == [1, 2, 3]
    assert events(caplog)["metadata_ignored"] == 1


def test_new_group_says_once_where_it_starts_and_commits_that(
    fix: Fixture,  # noqa: F811
    make_topic: Callable[..., str],
    produce: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With `latest`, what is produced after the start is not lost when the consumer is restarted before it reads."""
    topic = make_topic(1)
    produce(topic, numbers(3))
    consumer = fix.start(topic, nothing, kafka_options={"auto_offset_reset": "latest"})
    wait_until(lambda: fix.committed(topic) == 3, timeout=30)
    consumer.close(30)
    produce(topic, numbers(1))
    seen: list[int] = []
    fix.start(topic, lambda record: seen.append(record.offset), kafka_options={"auto_offset_reset": "latest"})

    wait_until(lambda: seen == [3], timeout=30)
    (line,) = (line for line in caplog.records if getattr(line, "event", "") == "group_start")
    # The embedded broker may tell an end that is too low.
    before: int = line.before  # type: ignore[attr-defined]
    assert before == 3 if APACHE else 0 < before <= 3


def test_topic_that_does_not_exist_ends_the_start_and_is_not_created(
    fix: Fixture,  # noqa: F811
    make_topic: Callable[..., str],
) -> None:
    topic = make_topic(1, f"orders-{uuid.uuid4().hex}")
    config = ConsumerConfig(group=fix.group, topics=topic[:-1], handler=nothing)

    with pytest.raises(InvalidSettingError, match=f"{topic[:-1]!r}.*it has {topic}"):
        Consumer(config, fix.app).run()

    reader = KafkaConsumer(bootstrap_servers=fix.brokers)
    try:
        assert topic[:-1] not in reader.topics()
    finally:
        reader.close()
