"""A partition with a lag that yields no records is noticed, reported once, and fetched again. Others are left alone."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.consumer.fetcher import Fetcher

from rebound_celery.consumer import Consumer, ConsumerConfig, health_reporter, stall_detector
from rebound_celery.embedded import EmbeddedKafka, create_topics
from tests.integration.test_consumer import OPTIONS, FakeApp
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rebound_celery.message import Record

PATIENCE_S = 1.0


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(health_reporter, "CHECK_INTERVAL_S", 0.2)
    monkeypatch.setattr(stall_detector, "STALL_TIMEOUT_S", PATIENCE_S)
    caplog.set_level("INFO", "rebound_celery")


@pytest.fixture
def health_file(tmp_path: Path) -> Path:
    return tmp_path / "consumer.health"


class Stall:
    """A fault of the fetcher: while it lasts, the partitions of those fetchers that have it are not fetched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetchers: set[Fetcher] = set()
        self.spreads = False
        self.ends_with_seek = False
        self._seen: list[Fetcher] = []
        stall, fetchable, seek = self, Fetcher._fetchable_partitions, KafkaConsumer.seek

        def stalled(fetcher: Fetcher) -> list[Any]:
            if fetcher not in stall._seen:
                stall._seen.append(fetcher)
                if stall.spreads:
                    stall.fetchers.add(fetcher)
            return [] if fetcher in stall.fetchers else fetchable(fetcher)

        def seeking(consumer: KafkaConsumer, *arguments: Any) -> None:
            if stall.ends_with_seek:
                stall.fetchers.clear()
            seek(consumer, *arguments)

        monkeypatch.setattr(Fetcher, "_fetchable_partitions", stalled)
        monkeypatch.setattr(KafkaConsumer, "seek", seeking)

    def begin(self) -> None:
        self.fetchers.update(self._seen)
        # What is asked for already still comes.
        wait_until(lambda: not any(fetcher.in_flight_fetches() for fetcher in self.fetchers))


@pytest.fixture
def stall(monkeypatch: pytest.MonkeyPatch) -> Stall:
    return Stall(monkeypatch)


@pytest.fixture
def consuming(kafka_brokers: str, health_file: Path) -> Iterator[Callable[..., list[bytes]]]:
    """`consuming(topic)` starts a consumer; what it handled is in the list."""
    started: list[Consumer] = []

    def start(topic: str, handler: Callable[[Record], object] = bool, **fields: Any) -> list[bytes]:
        handled: list[bytes] = []

        def handle(record: Record) -> None:
            handler(record)
            handled.append(record.value or b"")

        fields = {"commit_interval": 0.1, "health_file": health_file, "kafka_options": OPTIONS, **fields}
        config = ConsumerConfig(group=f"g-{uuid.uuid4().hex[:8]}", topics=topic, handler=handle, **fields)
        started.append(Consumer(config, FakeApp(kafka_brokers)))
        started[-1].start()
        return handled

    yield start
    for consumer in started:
        consumer.close(30)
    assert not health_file.exists()


def told(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {"state": "nothing"}


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = (getattr(record, "event", "") for record in caplog.records)
    return [event for event in found if event.startswith("fetch_")]


def records(first: int, count: int = 10) -> list[Any]:
    return [(None, b"%d" % n, []) for n in range(first, first + count)]


@pytest.mark.parametrize(
    ("ends_with_seek", "expected"),
    [(True, ["fetch_stalled", "fetch_back"]), (False, ["fetch_stalled", "fetch_renewed", "fetch_back"])],
    ids=["a seek helps", "only another client helps"],
)
def test_stalled_fetch_recovers(
    ends_with_seek: bool,
    expected: list[str],
    stall: Stall,
    consuming: Any,
    topic: str,
    produce: Any,
    caplog: pytest.LogCaptureFixture,
    health_file: Path,
):
    stall.ends_with_seek = ends_with_seek
    handled = consuming(topic)
    produce(topic, records(0))
    wait_until(lambda: len(handled) == 10, timeout=30)

    stall.begin()
    produce(topic, records(10))

    wait_until(lambda: len(handled) == 20, timeout=30, message=lambda: f"{events(caplog)} {told(health_file)}")
    wait_until(lambda: events(caplog)[-1:] == ["fetch_back"])
    assert sorted(map(int, handled)) == list(range(20))
    assert events(caplog) == expected
    wait_until(lambda: told(health_file)["state"] == "ok")


def test_stall_that_nothing_helps_is_reported_once(
    stall: Stall, consuming: Any, topic: str, produce: Any, caplog: pytest.LogCaptureFixture, health_file: Path
):
    handled = consuming(topic)
    produce(topic, records(0))
    wait_until(lambda: len(handled) == 10, timeout=30)

    stall.spreads = True
    stall.begin()
    produce(topic, records(10))

    wait_until(lambda: told(health_file)["state"] == "stalled", timeout=30, message=lambda: str(events(caplog)))
    time_of_change = health_file.stat().st_mtime
    wait_until(lambda: time.time() - time_of_change > 3)
    assert events(caplog) == ["fetch_stalled", "fetch_renewed", "fetch_dead"]
    assert health_file.stat().st_mtime == time_of_change
    assert told(health_file)["detail"].startswith(f"{topic}[")

    stall.spreads = False
    stall.fetchers.clear()
    wait_until(lambda: len(handled) == 20, timeout=30)
    wait_until(lambda: told(health_file)["state"] == "ok")
    assert events(caplog)[-1] == "fetch_back"


def test_full_consumer_idle_one_and_one_behind_a_hung_handler_are_well(
    consuming: Any, topic: str, produce: Any, caplog: pytest.LogCaptureFixture, health_file: Path
):
    """All with a lag that does not move for several times the watch's patience, or with none."""
    hang = threading.Event()
    handled = consuming(topic, lambda record: record.value == b"0" or hang.wait(60), max_in_flight=4, concurrency=2)
    produce(topic, records(0, 1), partition=0)
    wait_until(lambda: handled, timeout=30)
    idle_until = time.monotonic() + 3 * PATIENCE_S
    wait_until(lambda: time.monotonic() > idle_until)
    assert told(health_file)["state"] == "ok"

    produce(topic, records(1, 40))
    hung_until = time.monotonic() + 4 * PATIENCE_S
    wait_until(lambda: time.monotonic() > hung_until)

    assert told(health_file)["state"] == "ok"
    assert time.time() - health_file.stat().st_mtime < 1
    hang.set()
    wait_until(lambda: len(handled) == 41, timeout=30)
    assert events(caplog) == []


def test_kafka_that_hangs_is_no_stall_and_its_error_no_fault_of_the_consumer(
    consuming: Any, caplog: pytest.LogCaptureFixture, health_file: Path
):
    with EmbeddedKafka() as kafka:
        create_topics(kafka.address, {"t": 2})
        handled = consuming("t", brokers=kafka.address)
        with KafkaProducer(bootstrap_servers=kafka.address) as producer:
            producer.send("t", b"1").get(timeout=10)
        wait_until(lambda: handled, timeout=30)
        os.kill(kafka.pid, signal.SIGSTOP)
        hung_until = time.monotonic() + 5 * PATIENCE_S
        try:
            wait_until(lambda: time.monotonic() > hung_until)
            assert told(health_file)["state"] in ("ok", "waiting")
            assert time.time() - health_file.stat().st_mtime < 4
        finally:
            os.kill(kafka.pid, signal.SIGCONT)
        with KafkaProducer(bootstrap_servers=kafka.address) as producer:
            producer.send("t", b"2").get(timeout=10)
        wait_until(lambda: len(handled) >= 2, timeout=30)
        assert events(caplog) == []


def test_store_that_is_down_is_what_the_consumer_waits_for(
    kafka_brokers: str, topic: str, produce: Any, health_file: Path, caplog: pytest.LogCaptureFixture
):
    app = FakeApp(kafka_brokers)

    def fail(record: Record) -> None:
        if record.value == b"0":
            app.asleep.set()
        raise ValueError("no")

    config = ConsumerConfig(group="g", topics=topic, handler=fail, health_file=health_file, kafka_options=OPTIONS)
    with Consumer(config, app):
        produce(topic, records(0, 1))
        wait_until(lambda: told(health_file)["state"] == "waiting", timeout=30)
        produce(topic, records(1, 20))
        down_until = time.monotonic() + 3 * PATIENCE_S
        wait_until(lambda: time.monotonic() > down_until)
        assert told(health_file)["detail"] == "retries cannot be stored"
        app.asleep.clear()
        wait_until(lambda: len(app.stored) == 21, timeout=30)
        wait_until(lambda: told(health_file)["state"] == "ok")
    assert events(caplog) == []
