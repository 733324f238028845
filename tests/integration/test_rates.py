"""Rates of the settings, and priority, with a real worker that posts to a real receiver."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from celery import Celery
from redis import Redis

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.clock import SystemClock
from rebound_celery.message.address import KafkaAddress
from rebound_celery.registry import ChainChange
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.integration.test_delivery_http import Receiver
from tests.waiting import wait_until


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()
    close_redis_connections()


def make_rebound(redis_url: str, **settings: Any) -> Rebound:
    return Rebound(Celery("shop", broker=redis_url, set_as_current=False), **settings)


def test_each_rule_has_its_rate_and_the_rest_has_none(redis_url: str, receiver: Receiver) -> None:
    rates = {f"{receiver.url} key=tenant-7:*": 10, f"{receiver.url}/slow/*": 20}
    rebound = make_rebound(redis_url, rates=rates)
    requests = [
        *({"destination": f"{receiver.url}/tenant", "key": f"tenant-7:{n}", "delay": 0} for n in range(20)),
        *({"destination": f"{receiver.url}/slow/report", "delay": 0} for _ in range(40)),
        *({"destination": f"{receiver.url}/quick", "key": "tenant-8:1", "delay": 0} for _ in range(200)),
    ]
    rebound.schedule_retries(requests)

    with running_worker(rebound.app):
        wait_until(lambda: len(receiver.posts) == 260, timeout=30)

    began = min(post.at for post in receiver.posts)
    took = {path: max(post.at for post in receiver.to(path)) - began for path in ("/tenant", "/slow/report", "/quick")}
    assert took["/tenant"] > 1.6, took
    assert took["/slow/report"] > 1.6, took
    assert took["/quick"] < min(took["/tenant"], took["/slow/report"]), took


def test_a_changed_rate_replaces_the_earlier_one_and_a_rate_by_hand_outlives_a_restart(redis_url: str) -> None:
    def rate_with(**settings: Any) -> float | None:
        rebound = make_rebound(redis_url, **settings)
        rebound.schedule_retry("kafka://orders", delay=60)
        lane = rebound.lanes.get("kafka://orders")
        rebound.close()
        assert lane is not None
        return lane.rate

    assert rate_with(rates={"kafka://*": 5}) == 5
    make_rebound(redis_url).lanes.set_rate("kafka://orders", 70)
    assert rate_with(rates={"kafka://*": 5}) == 70
    assert rate_with() == 70, "who says nothing of rates changes none"
    assert rate_with(rates={"kafka://*": 6}) == 6
    assert rate_with(rates={}) is None
    close_redis_connections()


def test_a_rate_is_back_soon_after_redis_has_lost_its_data(redis_url: str) -> None:
    clock = Clock()
    app = Celery("shop", broker=redis_url, set_as_current=False)
    rebound = Rebound(app, clock=clock, rates={"kafka://*": 5})

    def rate() -> float | None:
        rebound.schedule_retry("kafka://orders", delay=60)
        lane = rebound.lanes.get("kafka://orders")
        assert lane is not None
        return lane.rate

    assert rate() == 5
    with Redis.from_url(redis_url) as redis:
        redis.flushdb()
    clock.later_s = 30
    assert rate() == 5
    rebound.close()
    close_redis_connections()


class Clock(SystemClock):
    """A clock that can be put forward."""

    later_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.later_s


def test_a_lane_of_a_rule_is_seen_and_steered_by_its_name(redis_url: str) -> None:
    rebound = make_rebound(redis_url, rates={"kafka://orders key=vip-*": 5})
    rebound.schedule_retry("kafka://orders", key="vip-1", delay=60)

    (lane,) = rebound.lanes
    assert (lane.name, lane.rate) == ("kafka:orders|key=vip-*", 5)
    rebound.lanes.pause(lane.name, 60)
    assert next(iter(rebound.lanes)).paused_until_ms is not None
    close_redis_connections()


@pytest.mark.parametrize(
    "name", ["kafka:orders", "http:shop.example:443", "http:https://shop.example/a", "kafka:orders|key=https://x/*"]
)
def test_a_lane_is_steered_by_the_name_that_it_shows(name: str, redis_url: str) -> None:
    rebound = make_rebound(redis_url)
    rebound.lanes.set_rate(name, 5)

    assert [lane.name for lane in rebound.lanes] == [name]
    close_redis_connections()


def test_priority_goes_first_though_it_was_stored_last_and_the_lane_has_a_rate(
    redis_url: str, receiver: Receiver
) -> None:
    rebound = make_rebound(redis_url, rates={receiver.url: 40})
    url = f"{receiver.url}/hook"
    rebound.lanes.pause(url, 60)
    rebound.schedule_retries({"destination": url, "id": f"usual-{n}", "delay": 0} for n in range(60))
    rebound.schedule_retries(
        {"destination": url, "id": f"urgent-{n}", "delay": 0, "is_priority": True} for n in range(10)
    )

    with running_worker(rebound.app):
        rebound.lanes.resume(url)
        wait_until(lambda: len(receiver.posts) == 70, timeout=30)

    order = [post.headers["Rebound-Id"] for post in receiver.posts]
    assert all(name.startswith("urgent") for name in order[:8]), order[:20]
    # The posts of one job are under way at once.
    assert {name for name in order[:16] if name.startswith("urgent")} == {f"urgent-{n}" for n in range(10)}


def test_messages_of_a_chain_have_the_rate_of_their_rule(redis_url: str) -> None:
    rebound = make_rebound(redis_url, rates={"kafka://orders key=vip-*": 5})
    due_ms = time.time_ns() // 1_000_000 + 60_000

    def change(do: Literal["wait", "arrive", "finish"], place: int) -> ChainChange:
        address = KafkaAddress("orders")
        message = Message(f"order-{place}", b"", address, 1, RetryPolicy(3, 5), b"vip-1", (), address)
        return ChainChange(do, "g/orders/0/vip-1", place, 1, None if do == "finish" else message, due_ms)

    rebound.chains.change([change("wait", 1), change("arrive", 2)])
    (lane,) = rebound.lanes
    assert (lane.name, lane.rate, lane.waiting) == ("kafka:orders|key=vip-*", 5, 1)

    rebound.chains.change([change("finish", 1)])
    (lane,) = rebound.lanes
    assert (lane.name, lane.rate, lane.waiting) == ("kafka:orders|key=vip-*", 5, 1)
    rebound.close()
    close_redis_connections()
