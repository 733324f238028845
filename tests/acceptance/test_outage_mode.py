"""A plain `celery worker` while one destination is away: its circuit breaker opens, is probed, drains and closes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from rebound_celery import Rebound
from tests.acceptance.apps.worker import close_redis_connections
from tests.integration.test_delivery_http import Receiver, status
from tests.processes import Process
from tests.waiting import wait_until

#: More than a job of the worker's, and more than it claims at a time.
MESSAGES = 600
OPTIONS = "share=0.5,count=10,window=20,probe=0.5,max_probe=1,drain_rate=150"


@pytest.fixture
def rebound(redis_url: str, kafka_brokers: str) -> Iterator[Rebound]:
    yield Rebound(Celery("web", broker=redis_url, set_as_current=False), kafka_brokers=kafka_brokers, breaker=OPTIONS)
    close_redis_connections()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def waiting(rebound: Rebound, url: str) -> int:
    lane = rebound.lanes.get(url)
    return 0 if lane is None else lane.waiting


@pytest.mark.kafka
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_outage_holds_one_lane_uses_up_no_attempt_and_ends_with_a_drain_at_the_set_rate(
    pool: str,
    rebound: Rebound,
    redis_url: str,
    kafka_brokers: str,
    receiver: Receiver,
    topic: str,
    read_topic: Callable[..., list[Any]],
    run_process: Callable[..., Process],
) -> None:
    receiver.answers["/hook"] = [status(503)]
    environment = {"ORDERS_REDIS": redis_url, "REBOUND_KAFKA_BROKERS": kafka_brokers, "REBOUND_BREAKER": OPTIONS}
    worker = run_process(
        *("-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "--loglevel=INFO", "-P", pool, "-c", "2"),
        env=environment,
    )
    worker.wait_for_output(" ready.", timeout=60)
    url = f"{receiver.url}/hook"
    # Each has one attempt only: an attempt that is used up is a dead letter.
    rebound.schedule_retries(
        {"destination": url, "id": f"hook-{n}", "max_retries": 1, "delay": 0, "attempt": 1} for n in range(MESSAGES)
    )
    worker.wait_for_output("opened", timeout=30)
    rebound.schedule_retries({"destination": f"kafka://{topic}", "value": b"x", "delay": 0} for _ in range(1_000))
    assert len(read_topic(topic, 1_000)) == 1_000

    breaker = rebound.breakers.get(url)
    assert breaker is not None
    assert breaker.state in {"open", "probing"}
    assert "503" in breaker.error
    wait_until(lambda: waiting(rebound, url) >= MESSAGES - 1, timeout=30, message=worker.tail)
    posts, began = len(receiver.posts), time.monotonic()
    wait_until(lambda: len(receiver.posts) >= posts + 3, timeout=30, message=worker.tail)
    probes, took_s = len(receiver.posts) - posts, time.monotonic() - began
    assert probes <= 2 + took_s / 0.5, "one message at a time, at growing intervals"
    assert waiting(rebound, url) >= MESSAGES - 2, "nothing else is in the workers' hands"

    receiver.answers["/hook"] = [status(204)]
    posts = len(receiver.posts)
    wait_until(lambda: rebound.breakers.get(url) is None, timeout=90, interval=0.05, message=worker.tail)
    wait_until(lambda: rebound.lanes.get(url) is None, timeout=30, message=worker.tail)

    # One more: it may have come before the change, and its answer after.
    good = receiver.posts[posts - 1 :]
    took_s = good[-1].at - good[1].at
    assert took_s > (MESSAGES - 150 * 2) / 150, f"{len(good)} posts in {took_s:.2f} s: faster than the drain rate"
    delivered = Counter(post.headers["Rebound-Id"] for post in good)
    assert len(delivered) == MESSAGES
    assert {post.headers["Rebound-Attempt"] for post in good} == {"2"}
    assert len(rebound.dead_set) == 0, "no attempt was used up"
    assert "drains at 150 messages a second" in worker.output
    assert worker.output.count("opened") == 1
    assert worker.output.count(" closed") == 1
    assert worker.stop() == 0


def test_a_breaker_that_is_opened_by_hand_stops_deliveries_until_it_is_closed_by_hand(
    rebound: Rebound, redis_url: str, receiver: Receiver, run_process: Callable[..., Process]
) -> None:
    worker = run_process(
        *("-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "--loglevel=INFO", "-P", "threads"),
        env={"ORDERS_REDIS": redis_url, "REBOUND_BREAKER": "on"},
    )
    worker.wait_for_output(" ready.", timeout=60)
    url = f"{receiver.url}/hook"

    rebound.breakers.open(url)
    rebound.schedule_retries({"destination": url, "delay": 0} for _ in range(20))
    threading.Event().wait(1.5)
    assert receiver.posts == []
    assert [(breaker.state, breaker.by_hand) for breaker in rebound.breakers] == [("open", True)]

    assert rebound.breakers.close(url)
    wait_until(lambda: len(receiver.posts) == 20, timeout=10, message=worker.tail)
    assert list(rebound.breakers) == []


def test_workers_that_are_killed_in_an_outage_lose_nothing_and_the_breaker_is_closed_by_the_next_ones(
    rebound: Rebound, redis_url: str, receiver: Receiver, run_process: Callable[..., Process]
) -> None:
    receiver.answers["/hook"] = [status(503)]
    short = {"REBOUND_HTTP_TIMEOUT": "2", "REBOUND_KAFKA_TIMEOUT": "2", "REBOUND_LEASE": "2"}

    def start() -> Process:
        worker = run_process(
            *("-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "--loglevel=INFO", "-c", "2"),
            env={"ORDERS_REDIS": redis_url, "REBOUND_BREAKER": OPTIONS, **short},
        )
        worker.wait_for_output(" ready.", timeout=60)
        return worker

    url = f"{receiver.url}/hook"
    worker = start()
    rebound.schedule_retries(
        {"destination": url, "id": f"hook-{n}", "max_retries": 1, "delay": 0, "attempt": 1} for n in range(200)
    )
    worker.wait_for_output("opened", timeout=30)
    worker.kill()
    worker = start()
    posts = len(receiver.posts)
    wait_until(lambda: len(receiver.posts) > posts, timeout=60, message=worker.tail)
    worker.kill()  # with a probe in hand, or just after it

    receiver.answers["/hook"] = [status(204)]
    worker = start()
    wait_until(lambda: rebound.lanes.get(url) is None, timeout=90, message=worker.tail)

    wait_until(lambda: rebound.breakers.get(url) is None, timeout=30, message=worker.tail)
    assert {post.headers["Rebound-Id"] for post in receiver.posts} == {f"hook-{n}" for n in range(200)}
    assert len(rebound.dead_set) == 0


def test_a_worker_without_breakers_closes_those_that_were_left_open(
    rebound: Rebound, redis_url: str, receiver: Receiver, run_process: Callable[..., Process]
) -> None:
    """Nobody would tell them of a probe that is delivered: the lane would be as good as paused for ever."""
    receiver.answers["/hook"] = [status(503)]
    url = f"{receiver.url}/hook"
    rebound.schedule_retries({"destination": url, "max_retries": 50, "base_delay": 1, "delay": 0} for _ in range(100))
    command = ("-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "--loglevel=INFO", "-P", "threads")
    environment = {"ORDERS_REDIS": redis_url, "REBOUND_LEASE": "2"}
    worker = run_process(*command, env={**environment, "REBOUND_BREAKER": OPTIONS})
    worker.wait_for_output("opened", timeout=60)
    worker.kill()
    receiver.answers["/hook"] = [status(204)]

    worker = run_process(*command, env=environment)

    wait_until(lambda: rebound.breakers.get(url) is None, timeout=60, message=worker.tail)
    wait_until(lambda: waiting(rebound, url) == 0, timeout=30, message=worker.tail)
    assert "closed, because this app has no circuit breakers any more" in worker.output
