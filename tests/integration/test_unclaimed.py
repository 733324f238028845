"""Whoever schedules retries hears in the log that no worker claims them."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from redis.exceptions import ResponseError

from rebound_celery import Consumer, ConsumerConfig, Rebound
from rebound_celery.consumer import retry_writer
from rebound_celery.schedule.port import open_schedule
from rebound_celery.schedule.store.claims import ClaimId
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.listing import unclaimed_ms
from rebound_celery.schedule.store.store import Store
from tests.acceptance.apps.worker import close_redis_connections
from tests.scheduling import entry, now_ms
from tests.servers import RedisServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

MINUTE_S = 60.0


class SteppedClock:
    """The time of day, with a monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now_ms(self) -> int:
        return now_ms()

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def rebound(redis_url: str, clock: SteppedClock) -> Iterator[Rebound]:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    rebound = Rebound(app, clock=clock)
    yield rebound
    rebound.close()
    close_redis_connections()


def store_due(rebound: Rebound, ago_s: float) -> None:
    """Let two messages be due for so long."""
    with open_schedule(rebound.app, "rebound") as schedule:
        schedule.enqueue([entry(name, now_ms() - round(ago_s * 1000), lane="kafka:t") for name in ("a", "b")])


def retry(rebound: Rebound, number: int = 1) -> None:
    rebound.schedule_retry("kafka://orders", b"x", id=f"r{number}", base_delay=600)


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def unclaimed(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in warnings(caplog) if vars(record).get("event") == "unclaimed"]


def test_schedule_retry_warns_that_nobody_claims_what_is_due(
    rebound: Rebound, caplog: pytest.LogCaptureFixture
) -> None:
    store_due(rebound, 95)

    retry(rebound)

    (record,) = warnings(caplog)
    text = record.getMessage()
    assert record.levelname == "WARNING"
    assert "3 messages wait in the queue rebound" in text
    assert any(f"for {age} s" in text for age in (95, 96, 97))
    assert "worker -Q rebound" in text
    fields = vars(record)
    assert (fields["event"], fields["queue"], fields["waiting"]) == ("unclaimed", "rebound", 3)


def test_schedule_retries_warns_too(rebound: Rebound, caplog: pytest.LogCaptureFixture) -> None:
    store_due(rebound, 95)
    rebound.schedule_retries([{"destination": "kafka://orders"}] * 300)
    assert len(warnings(caplog)) == 1


def test_the_warning_is_repeated_after_ten_minutes_while_it_lasts(
    rebound: Rebound, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    store_due(rebound, 95)
    heard = []
    for minute in range(25):
        retry(rebound, minute)
        heard += [minute] * len(warnings(caplog))
        caplog.clear()
        clock.seconds += MINUTE_S
    assert heard == [0, 10, 20]


def test_a_process_looks_at_most_every_thirty_seconds(
    rebound: Rebound, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []

    def counted(*of_store: Any) -> int:
        looks.append(clock.seconds)
        return unclaimed_ms(*of_store)

    monkeypatch.setattr("rebound_celery.schedule.store.listing.unclaimed_ms", counted)
    for second in range(65):
        clock.seconds = 1000.0 + second
        retry(rebound, second)
        rebound.warn_if_unclaimed()
    assert looks == [1000.0, 1030.0, 1060.0]


def test_messages_that_wait_for_their_due_time_are_no_reason(
    rebound: Rebound, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        retry(rebound, number)
        clock.seconds += MINUTE_S
    assert warnings(caplog) == []


@pytest.mark.parametrize("ago_s", [5, 50])
def test_what_has_been_due_for_less_than_a_minute_is_no_reason(
    rebound: Rebound, caplog: pytest.LogCaptureFixture, ago_s: float
) -> None:
    store_due(rebound, ago_s)
    retry(rebound)
    assert warnings(caplog) == []


def test_a_worker_without_room_is_no_reason(rebound: Rebound, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    store_due(rebound, 95)
    with redis.Redis.from_url(redis_url) as client:
        Store(client, QueueKeys("", "rebound", (0, 3, 6, 9))).claim(ClaimId("w", 1), 0, 1000, 1000)
    retry(rebound)
    assert warnings(caplog) == []


@pytest.mark.parametrize("fault", [ResponseError("no"), ConnectionError("gone"), KeyError("what")])
def test_a_look_that_fails_does_not_harm_the_call(
    rebound: Rebound,
    clock: SteppedClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
) -> None:
    def fail(*_: Any) -> int:
        raise fault

    with monkeypatch.context() as patch:
        patch.setattr("rebound_celery.schedule.store.listing.unclaimed_ms", fail)
        retry(rebound, 1)
        clock.seconds += MINUTE_S
        rebound.warn_if_unclaimed()
    retry(rebound, 2)
    assert warnings(caplog) == []
    with open_schedule(rebound.app, "rebound") as schedule:
        assert schedule.counts().waiting == 2


def test_a_look_does_not_raise_while_redis_is_away(clock: SteppedClock) -> None:
    with RedisServer() as server:
        app = Celery("shop", broker=server.url, set_as_current=False)
        app.conf.broker_transport_options = {"max_retries": 0, "socket_connect_timeout": 1}
        rebound = Rebound(app, clock=clock)
        retry(rebound)
        clock.seconds += MINUTE_S
    rebound.warn_if_unclaimed()
    rebound.close()
    close_redis_connections()


def test_a_consumer_without_failures_warns_from_a_thread_beside_its_loop(
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry_writer, "LOOK_EVERY_S", 0.1)
    app = Celery("shop", broker=redis_url, set_as_current=False)
    rebound = Rebound(app, kafka_brokers=kafka_brokers)
    store_due(rebound, 95)
    config = ConsumerConfig(group=f"g-{topic}", topics=topic, handler=lambda _: None)
    with Consumer(config, app):
        wait_until(lambda: unclaimed(caplog), timeout=30)
    (record,) = unclaimed(caplog)
    assert record.threadName == "rebound-retry-writer"
    rebound.close()
    close_redis_connections()
