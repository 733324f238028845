"""Fixtures: servers, topics and processes. If a server cannot be started, the test fails and is never skipped."""

from __future__ import annotations

import logging
import os
import time
import uuid
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import redis
from celery import _state
from kafka import KafkaProducer

from rebound_celery.embedded import EmbeddedKafka, EmbeddedRedis, create_topics
from tests import topics
from tests.processes import Process
from tests.servers import ExternalRedis, RedisServer, local_redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kafka.consumer.fetcher import ConsumerRecord
    from kafka.producer.future import RecordMetadata

    # Kafka also has headers without a value, and records with neither key nor value; kafka-python does not send them.
    Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]


# An example that takes long says that the machine is busy.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test that reaches for the broker is a `kafka` test: CI runs these again on Apache Kafka."""
    for item in items:
        if "kafka_brokers" in getattr(item, "fixturenames", ()):
            item.add_marker("kafka")


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the developer's shell nor the test before decides how a test ends."""
    for name in os.environ:
        if name.startswith(("REBOUND_", "CELERY_")) and not name.startswith("REBOUND_TEST_"):
            monkeypatch.delenv(name)
        if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name)
    # A Celery worker in the process of the tests sets it.
    logging.getLogger().setLevel(logging.WARNING)
    default_app, current_app = _state.default_app, _state._tls.current_app
    time_zone = os.environ.get("TZ"), time.tzname
    yield
    assert (os.environ.get("TZ"), time.tzname) == time_zone, "the test has changed the time zone of the process"
    _state.default_app, _state._tls.current_app = default_app, current_app


@pytest.fixture(scope="session")
def kafka_brokers(request: pytest.FixtureRequest) -> Iterator[str]:
    """`host:port` of a Kafka broker: REBOUND_TEST_KAFKA, else an embedded one."""
    given = os.environ.get("REBOUND_TEST_KAFKA")
    with ExitStack() as stack:
        brokers = given or stack.enter_context(EmbeddedKafka()).address
        for broker in brokers.split(","):
            # A client of kafka-python's that is closed while it connects leaves that socket to the garbage collector.
            to_kafka = rf"unclosed <socket.socket .*raddr=\('[^']*', {broker.rpartition(':')[2]}\)>"
            request.config.addinivalue_line("filterwarnings", f"ignore:{to_kafka}:ResourceWarning")
        yield brokers


@pytest.fixture(scope="session")
def redis_server() -> Iterator[ExternalRedis | RedisServer | EmbeddedRedis]:
    """A Redis server with `.url` and `.address`: REBOUND_TEST_REDIS, else the system's, else an embedded one.

    All tests share it: one that stops or configures its server starts a `RedisServer` of its own.
    """
    given = os.environ.get("REBOUND_TEST_REDIS")
    if given:
        yield ExternalRedis(given)
        return
    with local_redis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: ExternalRedis | RedisServer | EmbeddedRedis) -> Iterator[str]:
    """The URL of an empty Redis database."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
        yield redis_server.url
        client.flushdb()


@pytest.fixture
def make_topic(kafka_brokers: str) -> Callable[..., str]:
    """`make_topic(partitions=4, name=None)` creates a topic and returns its name, a new one unless it is given."""

    def make(partitions: int = 4, name: str | None = None) -> str:
        name = name or f"t-{uuid.uuid4().hex[:8]}"
        create_topics(kafka_brokers, {name: partitions})
        return name

    return make


@pytest.fixture
def topic(make_topic: Callable[..., str]) -> str:
    """The name of a new topic with 4 partitions."""
    return make_topic()


@pytest.fixture(scope="session")
def _producer(kafka_brokers: str) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(bootstrap_servers=kafka_brokers, linger_ms=5)
    yield producer
    producer.close()


@pytest.fixture
def produce(_producer: KafkaProducer) -> Callable[..., list[RecordMetadata]]:
    """`produce(topic, [(key, value, headers), ...], partition=None)` returns when the broker has confirmed them all."""

    def send(topic: str, records: Iterable[Record], partition: int | None = None) -> list[RecordMetadata]:
        sent = [
            _producer.send(topic, key=key, value=value, headers=headers, partition=partition)
            for key, value, headers in records
        ]
        _producer.flush(timeout=30)
        return [future.get(timeout=0) for future in sent]

    return send


@pytest.fixture
def read_topic(kafka_brokers: str) -> Callable[..., list[ConsumerRecord]]:
    """`read_topic(topic, count, timeout=15)`; see `tests.topics`."""
    return partial(topics.read_topic, kafka_brokers)


@pytest.fixture
def run_process() -> Iterator[Callable[..., Process]]:
    """`run_process(*arguments, env=None)` starts `python *arguments`; whatever still runs after the test is stopped."""
    started: list[Process] = []

    def run(*arguments: str, **options: Any) -> Process:
        process = Process(*arguments, **options)
        started.append(process)
        return process

    yield run
    for process in started:
        process.stop()
        print(process.tail())  # pytest shows it for a failed test only
        process.close()
