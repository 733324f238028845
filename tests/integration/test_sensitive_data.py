"""With keys and a redaction function, failures stand encrypted in Redis and redacted in the dead letters."""

from __future__ import annotations

import base64
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from celery import Celery
from kafka import KafkaProducer

from rebound_celery import Consumer, ConsumerConfig, Rebound
from rebound_celery.message.encryption import KeyRing
from tests.acceptance.apps.worker import running_worker
from tests.waiting import wait_until

SECRET = "4111-1111"
#: Random bytes are stored uncompressed. So without encryption the secret would be seen in Redis.
VALUE = SECRET.encode() + os.urandom(200)
K1, K2 = (f"{name}:{base64.b64encode(name.encode() * 16).decode()}" for name in ("k1", "k2"))


def redact(where: str, value: Any) -> Any:
    return None if where == "header:card" else value.replace(SECRET, "*") if isinstance(value, str) else value


def make_app(redis_url: str, brokers: str, keys: str, **settings: Any) -> Rebound:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    return Rebound(app, kafka_brokers=brokers, encryption_keys=keys, redact=redact, **settings)


@pytest.fixture
def kept(redis_url: str) -> Iterator[Callable[[], bytes]]:
    """All names and values in Redis."""
    with redis.Redis.from_url(redis_url) as client:

        def read() -> bytes:
            found = []
            for key in client.scan_iter():
                kind = client.type(key)
                found.append(key)
                if kind == b"hash":
                    found += [part for pair in client.hgetall(key).items() for part in pair]
                elif kind == b"zset":
                    found += client.zrange(key, 0, -1)
                elif kind == b"list":
                    found += client.lrange(key, 0, -1)
                elif kind == b"string":
                    found.append(client.get(key))
            return b"\n".join(found)

        yield read


def test_a_failed_record_is_encrypted_while_it_waits_and_redacted_when_it_is_dead(
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    make_topic: Callable[..., str],
    read_topic: Callable[..., list[Any]],
    kept: Callable[[], bytes],
) -> None:
    make_topic(1, f"{topic}-dlq")
    rebound = make_app(redis_url, kafka_brokers, K1)
    seen: list[Any] = []

    def handler(record: Any) -> None:
        seen.append(record)
        raise ValueError(f"card {SECRET} is refused")

    config = ConsumerConfig(group=f"g-{topic}", topics=topic, handler=handler, max_retries=1, base_delay=1)
    with KafkaProducer(bootstrap_servers=kafka_brokers) as producer:
        producer.send(topic, VALUE, headers=[("card", SECRET.encode()), ("trace", b"7")]).get(20)
    consumer = Consumer(config, rebound.app)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        wait_until(lambda: rebound_waits(rebound) == 1, timeout=30)
        assert SECRET.encode() not in kept()
        with running_worker(rebound.app):
            (dead,) = read_topic(f"{topic}-dlq", 1)
    finally:
        consumer.stop()
        thread.join(30)

    assert [record.attempt for record in seen] == [1, 2]
    assert seen[1].value == VALUE
    assert dict(seen[1].headers)["card"] == SECRET.encode()
    headers = dict(dead.headers)
    assert dead.value == VALUE
    assert headers["rebound-exception-message"] == b"card * is refused"
    assert b"card * is refused" in headers["rebound-exception-stacktrace"]
    assert SECRET.encode() not in b"".join(filter(None, headers.values()))
    assert (headers["trace"], "card" in headers) == (b"7", False)


def rebound_waits(rebound: Rebound) -> int:
    with rebound._publisher.open() as schedule:
        return schedule.counts().waiting


def test_records_that_wait_in_order_are_encrypted_too(
    redis_url: str, kafka_brokers: str, topic: str, kept: Callable[[], bytes]
) -> None:
    rebound = make_app(redis_url, kafka_brokers, K1, lease=3)
    seen: list[tuple[bytes | None, int]] = []
    values = [VALUE + b"%d" % number for number in range(3)]

    def handler(record: Any) -> None:
        seen.append((record.value, record.attempt))
        if (record.value, record.attempt) == (values[0], 1):
            raise ValueError(f"card {SECRET} is refused")

    config = ConsumerConfig(group=f"g-{topic}", topics=topic, handler=handler, base_delay=3, ordering="key")
    with KafkaProducer(bootstrap_servers=kafka_brokers) as producer:
        for value in values:
            producer.send(topic, value, key=b"k").get(20)
    with Consumer(config, rebound.app):
        wait_until(lambda: [chain.behind for chain in rebound.chains.page()] == [2], timeout=30)
        assert SECRET.encode() not in kept()
        with running_worker(rebound.app):
            wait_until(lambda: len(seen) == 4, timeout=30)
    assert seen == [(values[0], 1), (values[0], 2), (values[1], 1), (values[2], 1)]
    rebound.close()


def test_an_exception_that_ends_a_consumer_is_redacted_in_its_log_and_raised_as_it_is(
    redis_url: str, kafka_brokers: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    rebound = make_app(redis_url, kafka_brokers, K1)

    def handler(record: Any) -> None:
        raise SystemExit(f"card {SECRET} is refused")

    config = ConsumerConfig(group=f"g-{topic}", topics=topic, handler=handler)
    with KafkaProducer(bootstrap_servers=kafka_brokers) as producer:
        producer.send(topic, b"v").get(20)
    consumer = Consumer(config, rebound.app)
    consumer.start()
    with pytest.raises(SystemExit, match=SECRET):
        consumer.join(30)

    events = {getattr(line, "event", None) for line in caplog.records}
    assert {"handler_exit", "consumer_failed"} <= events
    assert "card * is refused" in caplog.text
    assert SECRET not in caplog.text
    rebound.close()


def test_a_message_that_no_key_opens_stays_and_is_delivered_once_the_key_is_there(
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    read_topic: Callable[..., list[Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = make_app(redis_url, kafka_brokers, K1)
    writer.schedule_retry(f"kafka://{topic}", b"kept", id="m1", delay=0)
    writer.close()
    for keys in ("", K2):
        caplog.clear()
        caplog.set_level(logging.INFO)
        without = make_app(redis_url, kafka_brokers, keys)
        with running_worker(without.app):
            wait_until(lambda: "'k1', which is not among" in caplog.text, timeout=30)
        assert rebound_waits(without) == 1
        with without._publisher.open() as schedule:
            schedule.reschedule(0, "m1:1")  # it would be looked at again after five minutes
        without.close()
    rotated = make_app(redis_url, kafka_brokers, f"{K2},{K1}")
    with running_worker(rotated.app):
        (record,) = read_topic(topic, 1)
    assert record.value == b"kept"


def test_dead_letters_in_redis_are_encrypted_and_read_with_the_key(
    redis_url: str, kafka_brokers: str, kept: Callable[[], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    rebound = make_app(redis_url, kafka_brokers, K1)
    rebound.schedule_retry("http://receiver/", VALUE, id="m1", error=f"card {SECRET}", max_retries=0)
    with running_worker(rebound.app):
        wait_until(lambda: len(rebound.dead_set) == 1, timeout=30)

    assert SECRET.encode() not in kept()
    (letter,) = rebound.dead_set
    assert letter.value == VALUE
    assert letter.failure is not None
    assert letter.failure.message == "card *"
    other = make_app(redis_url, kafka_brokers, K2)
    assert (list(other.dead_set), len(other.dead_set)) == ([], 1)
    assert "'k1', which is not among" in caplog.text
    assert rebound.dead_set.remove("m1") == 1
    assert isinstance(rebound.settings.encryption_keys, KeyRing)


def test_records_that_wait_behind_their_key_are_encrypted_and_handled_in_order(
    redis_url: str, kafka_brokers: str, topic: str, kept: Callable[[], bytes]
) -> None:
    rebound = make_app(redis_url, kafka_brokers, K1)
    seen: list[tuple[bytes, int]] = []

    def handler(record: Any) -> None:
        seen.append((record.value, record.attempt))
        if record.attempt == 1 and record.value.endswith(b"first"):
            raise ValueError(f"card {SECRET} is refused")

    values = [f"{SECRET} {which}".encode() for which in ("first", "second", "third")]
    config = ConsumerConfig(
        group=f"g-{topic}", topics=topic, handler=handler, max_retries=1, base_delay=3, ordering="key"
    )
    with KafkaProducer(bootstrap_servers=kafka_brokers) as producer:
        for value in values:
            producer.send(topic, value, key=b"k").get(20)
    consumer = Consumer(config, rebound.app)
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        with redis.Redis.from_url(redis_url) as client:
            wait_until(lambda: client.hlen("rebound:1:{rebound}:chained:entries") == 3, timeout=30)
        assert SECRET.encode() not in kept()
        with running_worker(rebound.app):
            wait_until(lambda: len(seen) == 4, timeout=30)
    finally:
        consumer.stop()
        thread.join(30)

    assert seen == [(values[0], 1), (values[0], 2), (values[1], 1), (values[2], 1)]


def test_what_an_endpoint_has_missed_is_recovered_with_the_key_only(redis_url: str, kafka_brokers: str) -> None:
    rebound = make_app(redis_url, kafka_brokers, K1)
    url, since = "http://receiver/", datetime.now(UTC) - timedelta(hours=1)
    rebound.schedule_retry(url, SECRET.encode(), id="m1", error="refused", max_retries=0)
    with running_worker(rebound.app):
        wait_until(lambda: len(rebound.dead_set) == 1, timeout=30)

    assert make_app(redis_url, kafka_brokers, K2).endpoints.recover(url, since) == 0
    assert rebound.endpoints.recover(url, since) == 1
    assert (len(rebound.dead_set), rebound_waits(rebound)) == (0, 1)
