"""Delivery to Kafka by a real worker: byte for byte, to its partition, through outages, or to the dead letters."""

from __future__ import annotations

import gc
import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import MessageSizeTooLargeError
from msgspec.structs import replace

from rebound_celery import Message, Rebound
from rebound_celery.embedded import EmbeddedKafka, create_topics, free_port
from rebound_celery.message.address import KafkaAddress
from rebound_celery.message.headers import OWN_HEADERS
from rebound_celery.policy import RetryPolicy
from tests.acceptance.apps.worker import running_worker
from tests.waiting import wait_until


@pytest.fixture(params=["kafka-python", "confluent"])
def client(request: pytest.FixtureRequest) -> str:
    """Each library that the Kafka destination can use."""
    return str(request.param)


@pytest.fixture
def rebound(redis_url: str, kafka_brokers: str, client: str) -> Iterator[Rebound]:
    """A Rebound whose app has a running worker."""
    app = Celery("shop", broker=redis_url, set_as_current=False)
    settings = {"kafka_timeout": 5, "outage_delay": 0.2, "outage_max_delay": 0.4, "kafka_client": client}
    rebound = Rebound(app, kafka_brokers=kafka_brokers, **settings)
    with running_worker(app):
        yield rebound


def make_message(topic: str, **changes: Any) -> Message:
    message = Message(
        id="order-7",
        value=b"v",
        destination=KafkaAddress(topic),
        dead_destination=KafkaAddress(f"{topic}-dlq"),
        attempt=2,
        policy=RetryPolicy(3, 1),
        first_failed_at=1_700_000_000_000,
    )
    return replace(message, **changes)


def own(record: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in record.headers if name in OWN_HEADERS}


def users(record: Any) -> list[tuple[str, bytes]]:
    return [(name, value) for name, value in record.headers if name not in OWN_HEADERS]


def outages(caplog: pytest.LogCaptureFixture) -> int:
    """How many deliveries the worker has put off."""
    return sum(getattr(entry, "event", "") == "outage" for entry in caplog.records)


def refusals(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the worker says of dead letters that their destination refuses."""
    return [entry for entry in caplog.records if getattr(entry, "event", "") == "dead_letter_refused"]


PAYLOADS: dict[str, tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]] = {
    "text": (b"v", b"k", [("trace", b"7")]),
    "binary": (bytes(range(256)), bytes(range(255, -1, -1)), [("raw", bytes(range(128, 256)))]),
    "no value": (None, b"k", []),
    "no key": (b"v", None, []),
    "neither": (None, None, []),
    "empty": (b"", b"", [("", b""), ("empty", b"")]),
    "repeated headers": (b"v", b"k", [("a", b"1"), ("b", b"2"), ("a", b"1"), ("a", b"")]),
    "one megabyte": (bytes(range(250)) * 4000, b"k", []),
    "looks like base64": (b'["AA=="]', b'["AA=="]', [("a", b'["AA=="]')]),
}


def test_value_key_and_headers_arrive_byte_for_byte(
    rebound: Rebound, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    messages = [
        make_message(topic, id=name, value=value, key=key, headers=tuple(headers))
        for name, (value, key, headers) in PAYLOADS.items()
    ]

    rebound.store([(message, 0) for message in messages])

    records = read_topic(topic, len(PAYLOADS), timeout=20)
    assert {own(r)["rebound-id"]: (r.value, r.key, users(r)) for r in records} == PAYLOADS
    assert {own(r)["rebound-attempt"] for r in records} == {"2"}
    assert len(records) == len(PAYLOADS)


def test_a_header_without_value_arrives_so_with_confluent_and_empty_with_kafka_python(
    rebound: Rebound, client: str, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    """kafka-python cannot produce the difference."""
    rebound.store([(make_message(topic, headers=(("null", None), ("empty", b""))), 0)])

    (record,) = read_topic(topic, 1)
    assert users(record) == [("null", None if client == "confluent" else b""), ("empty", b"")]


def test_a_header_name_that_a_client_cannot_encode_stops_no_delivery(
    rebound: Rebound, client: str, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    """librdkafka ends a name at a NUL, and crashes the process at a lone surrogate."""
    names = ["nul\0", "ü€", "lone\ud800"]
    for name in names:
        destination_message = make_message(topic, id=name.encode("ascii", "replace").decode(), headers=((name, b"1"),))
        rebound.store([(destination_message, 0)])

    arrived = {name for record in read_topic(topic, 3) for name, _ in users(record)}
    assert arrived == {"nul\ufffd" if client == "confluent" else "nul\0", "ü€", "lone?"}


def test_a_retry_is_delivered_when_its_delay_is_over_and_not_before(
    rebound: Rebound, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    before_ms = time.time() * 1000
    result = rebound.schedule_retry(f"kafka://{topic}", {"n": 7}, key="k", base_delay=1, error="down", id="order-7")

    (record,) = read_topic(topic, 1)
    assert result.id == "order-7:2"
    assert (record.value, record.key) == (b'{"n":7}', b"k")
    assert record.timestamp - before_ms >= 1000
    assert {name: own(record)[name] for name in ("rebound-id", "rebound-attempt")} == {
        "rebound-id": "order-7",
        "rebound-attempt": "2",
    }


def test_a_retry_goes_to_the_partition_of_the_original_with_the_same_key(
    rebound: Rebound, topic: str, produce: Callable[..., list[Any]], read_topic: Callable[..., list[Any]]
) -> None:
    keys = [f"order-{n}".encode() for n in range(20)] + [b"\x00\xff", b""]
    originals = {
        key: done.partition
        for key, done in zip(keys, produce(topic, [(k, b"original", []) for k in keys]), strict=True)
    }

    rebound.store([(make_message(topic, id=str(n), key=key), 0) for n, key in enumerate(keys)])

    records = read_topic(topic, 2 * len(keys))
    assert {r.key: r.partition for r in records if own(r)} == originals
    assert len(set(originals.values())) > 1


def test_a_pinned_partition_is_where_a_retry_goes_whatever_its_key(
    rebound: Rebound, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    rebound.store(
        [(make_message(topic, id=str(n), key=b"k", destination=KafkaAddress(topic, partition=n)), 0) for n in range(4)]
    )

    assert {own(r)["rebound-id"]: r.partition for r in read_topic(topic, 4)} == {str(n): n for n in range(4)}


def test_a_partition_that_does_not_exist_makes_a_dead_letter_at_once(
    rebound: Rebound, topic: str, make_topic: Callable[..., str], read_topic: Callable[..., list[Any]]
) -> None:
    make_topic(name=f"{topic}-dlq")

    rebound.store([(make_message(topic, destination=KafkaAddress(topic, partition=77)), 0)])

    (letter,) = read_topic(f"{topic}-dlq", 1)
    assert own(letter)["rebound-reason"] == "rejected"
    assert own(letter)["rebound-attempt"] == "2"
    assert "no partition 77" in own(letter)["rebound-exception-message"]


@pytest.fixture
def small_topic(kafka_brokers: str) -> str:
    """A topic that takes records of 2,000 bytes at most; a broker that knows no such limit skips the test."""
    name = f"small-{uuid.uuid4().hex[:8]}"
    admin = KafkaAdminClient(bootstrap_servers=kafka_brokers)
    try:
        options = {"num_partitions": 1, "replication_factor": -1, "configs": {"max.message.bytes": "2000"}}
        admin.create_topics({name: options})
        admin.wait_for_topics([name])
    finally:
        admin.close()
    producer = KafkaProducer(bootstrap_servers=kafka_brokers, enable_idempotence=False)
    try:
        producer.send(name, LARGE).get(timeout=10)
    except MessageSizeTooLargeError:
        return name
    finally:
        producer.close()
    pytest.skip("this broker does not enforce max.message.bytes; Apache Kafka does")


#: Bytes that no compression makes smaller.
LARGE = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(250))


def test_a_record_that_the_topic_finds_too_large_makes_a_dead_letter_at_once(
    rebound: Rebound, small_topic: str, make_topic: Callable[..., str], read_topic: Callable[..., list[Any]]
) -> None:
    make_topic(name=f"{small_topic}-dlq")

    rebound.store([(make_message(small_topic, value=LARGE, key=b"k", headers=(("a", b"1"),)), 0)])

    (letter,) = read_topic(f"{small_topic}-dlq", 1)
    assert (letter.value, letter.key, users(letter)) == (LARGE, b"k", [("a", b"1")])
    assert own(letter)["rebound-reason"] == "rejected"
    assert own(letter)["rebound-attempt"] == "2"
    assert own(letter)["rebound-exception-class"] == "rebound_celery.errors.RejectedError"
    assert read_topic(small_topic, 0, timeout=1) == []


def test_a_record_that_is_refused_takes_no_other_with_it(
    rebound: Rebound,
    topic: str,
    small_topic: str,
    make_topic: Callable[..., str],
    read_topic: Callable[..., list[Any]],
) -> None:
    """Those that share its producer, at the same time and afterwards, are delivered."""
    make_topic(name=f"{small_topic}-dlq")
    good = [make_message(topic, id=f"good-{n}") for n in range(10)]
    refused = [make_message(small_topic, id=f"refused-{n}", value=LARGE) for n in range(3)]

    rebound.store([(message, 0) for message in [*good[:5], *refused, *good[5:]]])
    assert len(read_topic(topic, 10)) == 10
    assert len(read_topic(f"{small_topic}-dlq", 3)) == 3
    rebound.store([(make_message(topic, id="late"), 0)])

    assert [own(record)["rebound-id"] for record in read_topic(topic, 11)].count("late") == 1


def test_records_that_are_too_large_only_together_are_all_delivered(
    rebound: Rebound, small_topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    """A client sends records of one partition as one batch, and the topic's limit is on the batch."""
    values = [hashlib.sha256(bytes([n])).digest() * 10 for n in range(20)]

    rebound.store([(make_message(small_topic, id=str(n), value=value), 0) for n, value in enumerate(values)])

    assert sorted(record.value for record in read_topic(small_topic, 20)) == sorted(values)


def test_a_record_that_fits_compressed_is_delivered_compressed(
    rebound: Rebound, small_topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    """Its producer may have compressed it, too."""
    rebound.store([(make_message(small_topic, value=b"x" * 8000), 0)])

    assert [record.value for record in read_topic(small_topic, 1)] == [b"x" * 8000]


def test_a_message_without_retries_left_is_a_dead_letter_with_its_whole_history(
    rebound: Rebound, topic: str, make_topic: Callable[..., str], read_topic: Callable[..., list[Any]]
) -> None:
    make_topic(name=f"{topic}-dlq")
    with pytest.raises(ZeroDivisionError) as raised:
        1 / 0  # noqa: B018

    rebound.schedule_retry(
        f"kafka://{topic}", b"v", key=b"k", headers=[("a", b"1")], attempt=4, max_retries=3, error=raised.value
    )

    (letter,) = read_topic(f"{topic}-dlq", 1)
    assert (letter.value, letter.key, users(letter)) == (b"v", b"k", [("a", b"1")])
    headers = own(letter)
    assert headers["rebound-attempt"] == "4"
    assert headers["rebound-reason"] == "retries-exhausted"
    assert headers["rebound-exception-class"] == "ZeroDivisionError"
    assert headers["rebound-exception-message"] == "division by zero"
    assert headers["rebound-exception-stacktrace"].endswith("ZeroDivisionError: division by zero\n")
    assert read_topic(topic, 0, timeout=1) == []


def read_from(brokers: str, topic: str, count: int) -> list[Any]:
    """Like the fixture `read_topic`, from a broker of the test's own."""
    consumer = KafkaConsumer(bootstrap_servers=brokers, group_id=None, enable_auto_commit=False)
    records: list[Any] = []
    try:
        consumer.assign([TopicPartition(topic, n) for n in sorted(consumer.partitions_for_topic(topic) or ())])
        consumer.seek_to_beginning()
        wait_until(
            lambda: (
                [records.extend(batch) for batch in consumer.poll(timeout_ms=200).values()] and len(records) >= count
            ),
            timeout=20,
            message=f"{count} records in {topic}",
        )
    finally:
        consumer.close()
    return records


@contextmanager
def killed(kafka: EmbeddedKafka) -> Iterator[EmbeddedKafka]:
    """A broker that is killed in the end: while clients are connected, its own end takes seconds."""
    try:
        yield kafka
    finally:
        kafka.kill()
        kafka.stop()


@pytest.mark.parametrize("dead", [False, True], ids=["retry", "dead letter"])
def test_an_outage_is_waited_out_without_using_up_an_attempt(
    dead: bool, client: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker comes up after several deliveries were refused; dead letters wait in the same way."""
    port = free_port()
    brokers = f"127.0.0.1:{port}"
    app = Celery("shop", broker=redis_url, set_as_current=False)
    settings = {"kafka_timeout": 1, "outage_delay": 0.2, "outage_max_delay": 0.2, "kafka_client": client}
    rebound = Rebound(app, kafka_brokers=brokers, **settings)
    message = make_message("orders", dead_destination=KafkaAddress("orders"))

    with killed(EmbeddedKafka(port)) as kafka, running_worker(app):
        rebound.store([(message.dead("retries-exhausted") if dead else message, 0)])
        wait_until(lambda: outages(caplog) >= 2, timeout=20, message="two refused deliveries")
        kafka.start()
        create_topics(brokers, {"orders": 1})
        (record,) = read_from(brokers, "orders", 1)

    assert own(record)["rebound-attempt"] == "2"
    assert own(record).get("rebound-reason") == ("retries-exhausted" if dead else None)
    assert record.value == b"v"


def test_an_outage_leaves_no_event_loop_open_for_each_refused_delivery(
    client: str, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """kafka-python's producer has one before it finds the broker away. Refused sockets are garbage."""
    app = Celery("shop", broker=redis_url, set_as_current=False)
    settings = {"kafka_timeout": 0.2, "outage_delay": 0.1, "outage_max_delay": 0.1, "kafka_client": client}
    rebound = Rebound(app, kafka_brokers="127.0.0.1:1", **settings)

    def event_loops() -> int:
        count = 0
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # closed meanwhile
                count += "eventpoll" in str(link.readlink())
        return count

    with running_worker(app, pool="solo"):
        rebound.store([(make_message("orders"), 0)])
        wait_until(lambda: outages(caplog) >= 1, timeout=20, message="a refused delivery")
        gc.disable()
        try:
            before = event_loops()
            wait_until(lambda: outages(caplog) >= 5, timeout=20, message="five refused deliveries")
            assert event_loops() <= before + 1
        finally:
            gc.enable()


def test_a_dead_letter_whose_place_refuses_it_stays_scheduled_and_says_so_loudly(
    rebound: Rebound, topic: str, read_topic: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    nowhere = KafkaAddress(topic, partition=77)
    message = make_message(topic, value=b"secret", dead_destination=nowhere).dead("retries-exhausted")

    rebound.store([(message, 0)])

    wait_until(lambda: len(refusals(caplog)) >= 2, timeout=20, message="two refused dead letters")
    loud = refusals(caplog)
    assert {entry.levelname for entry in loud} == {"CRITICAL"}
    assert "stays scheduled" in loud[0].getMessage()
    assert "secret" not in caplog.text
    assert read_topic(topic, 0, timeout=0.5) == []


def test_other_brokers_of_a_destination_are_used(client: str, redis_url: str) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    rebound = Rebound(app, kafka_brokers="127.0.0.1:1", kafka_timeout=5, kafka_client=client)

    with killed(EmbeddedKafka().start()) as other, running_worker(app):
        create_topics(other.address, {"orders": 1, "orders-dlq": 1})
        rebound.schedule_retry(f"kafka://{other.address}/orders", b"late", max_retries=0)
        rebound.schedule_retry(f"kafka://{other.address}/orders", b"v", max_retries=1, base_delay=1)

        assert [r.value for r in read_from(other.address, "orders", 1)] == [b"v"]
        assert [r.value for r in read_from(other.address, "orders-dlq", 1)] == [b"late"]


@pytest.mark.parametrize("serializer", ["pickle", "yaml"])
def test_apps_that_accept_another_serializer_only_lose_no_retry(
    serializer: str, redis_url: str, kafka_brokers: str, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    app.conf.update(task_serializer=serializer, accept_content=[serializer])
    rebound = Rebound(app, kafka_brokers=kafka_brokers)

    with running_worker(app):
        rebound.store([(make_message(topic, value=b"\x00\xff"), 0)])

        assert [record.value for record in read_topic(topic, 1)] == [b"\x00\xff"]
