"""Policies with Kafka, Redis and a worker: by topic, by error, by the handler, and limits that stop a consumer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from celery import Celery
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from rebound_celery import Consumer, ConsumerConfig, DeadLetter, Drop, Rebound, Record, RetryAfter
from rebound_celery.errors import DeadLetterLimitError
from rebound_celery.message import headers
from rebound_celery.testing import QUICK_JOIN, running
from tests.topics import read_topic
from tests.waiting import wait_until

TOPICS = ("orders", "orders-dlq", "refunds", "refunds-dlq", "broken", "late", "poison", "poison-dlq", "bad", "bad-dlq")

POLICIES = {
    "default": {
        "base_delay": 1,
        "rules": [{"error": "KeyError", "then": "dead-letter", "dead_letter_topic": "broken"}],
    },
    "topics": {"refunds": {"delays": [0.2, 0.2]}, "late": {"first_delay": 2}},
}


class Shop:
    """The servers, a worker, and consumers of one group."""

    def __init__(self, app: Celery, brokers: str) -> None:
        self.app = app
        self.brokers = brokers
        self.producer = KafkaProducer(bootstrap_servers=brokers)

    def send(self, topic: str, *values: bytes) -> None:
        for value in values:
            self.producer.send(topic, key=b"k", value=value)
        self.producer.flush(10)

    def read(self, topic: str, count: int) -> list[Any]:
        return read_topic(self.brokers, topic, count)

    def consumer(self, topic: str, handler: Callable[[Record], object], **fields: Any) -> Consumer:
        config = ConsumerConfig(
            group=f"g-{topic}", topics=topic, handler=handler, kafka_options=QUICK_JOIN, commit_interval=0.1, **fields
        )
        return Consumer(config, self.app)

    def committed(self, topic: str) -> int | None:
        with contextlib.closing(
            KafkaConsumer(bootstrap_servers=self.brokers, group_id=f"g-{topic}", enable_auto_commit=False)
        ) as reader:
            return reader.committed(TopicPartition(topic, 0))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    app = Celery("shop")
    app.conf.rebound_policies = POLICIES
    Rebound(app)
    with running(app, topics=dict.fromkeys(TOPICS, 1)) as servers:
        found = Shop(app, servers.kafka)
        yield found
        found.producer.close()


def header(record: Any, name: str) -> bytes | None:
    return dict(record.headers).get(name)


class Handler:
    """Notes when each value was handled, and does what the value says."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes | None, int, float]] = []
        self._lock = threading.Lock()

    def __call__(self, record: Record) -> None:
        with self._lock:
            self.calls.append((record.value, record.attempt, time.monotonic()))
        if record.value == b"drop":
            raise Drop("cancelled")
        if record.value == b"dead":
            raise DeadLetter("no such customer", topic="broken") from LookupError("customer 7")
        if record.value == b"rule":
            raise RuntimeError("wrapped") from KeyError("id")
        if record.value == b"later" and record.attempt == 1:
            raise RetryAfter(0.3)
        if record.value == b"always":
            raise OSError("no")

    def of(self, value: bytes) -> list[tuple[int, float]]:
        return [(attempt, at) for one, attempt, at in self.calls if one == value]


def test_handlers_and_rules_decide_what_becomes_of_a_record(shop: Shop) -> None:
    handler = Handler()
    with shop.consumer("orders", handler) as consumer:
        shop.send("orders", b"drop", b"dead", b"rule", b"later", b"fine")
        wait_until(lambda: len(handler.of(b"later")) == 2 and handler.of(b"fine"), timeout=30)
        dead = {record.value: record for record in shop.read("broken", 2)}
        wait_until(lambda: shop.committed("orders") == 6)
    stats = consumer.stats()

    assert {value: len(handler.of(value)) for value in (b"drop", b"dead", b"rule", b"later", b"fine")} == {
        b"drop": 1,
        b"dead": 1,
        b"rule": 1,
        b"later": 2,
        b"fine": 1,
    }
    (_, first), (attempt, second) = handler.of(b"later")
    assert attempt == 2
    assert 0.25 < second - first < 5
    assert header(dead[b"dead"], headers.REASON) == b"no such customer"
    assert header(dead[b"dead"], headers.EXCEPTION_CLASS) == b"LookupError"
    assert header(dead[b"rule"], headers.REASON) == b"rule"
    assert header(dead[b"rule"], headers.EXCEPTION_CLASS) == b"RuntimeError"
    assert (stats.dropped, stats.dead, stats.retried, stats.succeeded, stats.total) == (1, 2, 1, 2, 6)


def test_a_topic_has_the_delays_of_its_own_policy(shop: Shop) -> None:
    handler = Handler()
    with shop.consumer("refunds", handler):
        shop.send("refunds", b"always")
        (dead,) = shop.read("refunds-dlq", 1)

    assert [attempt for attempt, _ in handler.of(b"always")] == [1, 2, 3]
    times = [at for _, at in handler.of(b"always")]
    assert all(0.15 < later - earlier < 5 for earlier, later in pairwise(times))
    assert header(dead, headers.REASON) == b"retries-exhausted"


def test_a_new_record_waits_before_its_first_delivery_and_is_then_attempt_1(shop: Shop) -> None:
    handler = Handler()
    with shop.consumer("late", handler):
        began = time.monotonic()
        shop.send("late", b"fine")
        wait_until(lambda: handler.of(b"fine"), timeout=30)

    ((attempt, at),) = handler.of(b"fine")
    assert attempt == 1
    assert at - began > 1.9


def test_what_cannot_be_decoded_is_a_dead_letter_at_once_with_its_raw_bytes(shop: Shop) -> None:
    seen: list[object] = []
    with shop.consumer("poison", lambda record: seen.append(record.data), deserializer="json"):
        shop.send("poison", b"\x00\xff not JSON", b'{"id": 7}')
        (dead,) = shop.read("poison-dlq", 1)
        wait_until(lambda: seen, timeout=30)

    assert seen == [{"id": 7}]
    assert (dead.key, dead.value) == (b"k", b"\x00\xff not JSON")
    assert header(dead, headers.REASON) == b"undecodable"
    assert header(dead, headers.ATTEMPT) == b"1"


def test_too_many_dead_letters_stop_the_consumer_before_the_rest_of_the_topic_follows(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.send("bad", *[b"\xff"] * 50)
    consumer = shop.consumer("bad", print, deserializer="json", dead_letter_limit=5, concurrency=1)

    with pytest.raises(
        DeadLetterLimitError, match=r"dead_letter_limit=5 is exceeded: 5 in a row .* bad\[0\]@5 would be"
    ):
        consumer.run()

    assert len(shop.read("bad-dlq", 5)) == 5
    assert shop.committed("bad") == 5
    assert (consumer.stats().dead, consumer.stats().succeeded) == (5, 0)
    (line,) = [line for line in caplog.records if line.levelname == "CRITICAL"]
    assert line.getMessage().startswith("dead_letter_limit=5 is exceeded")
    assert (line.event, line.topic, line.offset) == ("dead_letter_limit", "bad", 5)  # type: ignore[attr-defined]
