"""The health of HTTP endpoints, with a real worker: one that is gone or fails for days is sent nothing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from standardwebhooks import Webhook

from rebound_celery import InvalidSettingError, Rebound
from rebound_celery.destinations import Delivered, Destination, Failed, Held
from rebound_celery.destinations.http import HttpDestination
from rebound_celery.destinations.http_health import HealthyEndpoints
from rebound_celery.message.address import HttpAddress
from rebound_celery.schedule.store import script_runner
from tests.acceptance.apps.worker import running_worker
from tests.integration.test_delivery_http import Receiver, status
from tests.integration.test_http_answers import make_message
from tests.waiting import wait_until

GONE = "/gone?token=hunter2"
KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


Start = Callable[..., Any]


@pytest.fixture
def start(redis_url: str) -> Start:
    """`with start(**settings) as rebound:` is a Rebound whose app has a worker."""

    @contextmanager
    def run(**settings: Any) -> Iterator[Rebound]:
        app = Celery("shop", broker=redis_url, set_as_current=False)
        rebound = Rebound(app, http_connect_timeout=2, http_timeout=5, **settings)
        with running_worker(app):
            yield rebound

    return run


def waiting(rebound: Rebound) -> int:
    with rebound._publisher.open() as schedule:
        return schedule.counts().waiting


def schedule(rebound: Rebound, url: str, *ids: str, **options: Any) -> None:
    for id_ in ids:
        rebound.schedule_retry(url, b"v", id=id_, **{"delay": 0, "base_delay": 1, "max_retries": 9, **options})


def test_an_endpoint_that_is_gone_is_sent_nothing_what_comes_waits_and_an_operator_is_told(
    receiver: Receiver, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    gone, other, ops = (f"{receiver.url}/{name}" for name in ("gone", "other", "ops"))
    receiver.answers[GONE] = [status(410, b"no more"), status(204)]
    with start(operator_url=ops, http_destinations={ops: {"secret": KEY}}) as rebound:
        schedule(rebound, f"{gone}?token=hunter2", "first")
        wait_until(lambda: rebound.endpoints.get(gone).disabled_at is not None)
        wait_until(lambda: len(receiver.to("/ops")) == 1)
        schedule(rebound, f"{gone}?token=hunter2", "second", "third")
        schedule(rebound, other, "fourth")
        wait_until(lambda: len(receiver.to("/other")) == 1)
        wait_until(lambda: waiting(rebound) == 3)

        (endpoint,) = rebound.endpoints
        assert endpoint.url == gone
        assert endpoint.reason == "it answered 410 Gone"
        assert len(receiver.to(GONE)) == 1
        (post,) = receiver.to("/ops")
        event = Webhook(KEY).verify(post.body, {name.lower(): text for name, text in post.headers.items()})
        assert event["type"] == "endpoint.disabled"
        assert event["data"]["endpoint"] == gone
        assert f"the endpoint {gone} is disabled: it answered 410 Gone; what comes for it waits" in caplog.text
        assert "hunter2" not in caplog.text
        assert "hunter2" not in json.dumps(event)

        assert rebound.endpoints.enable(gone)
        wait_until(
            lambda: {post.headers["Rebound-Id"] for post in receiver.to(GONE)[1:]} == {"first", "second", "third"}
        )
        assert {post.headers["Rebound-Attempt"] for post in receiver.to(GONE)} == {"1"}
        assert not list(rebound.endpoints)


def test_an_endpoint_that_does_nothing_but_fail_for_so_many_hours_is_disabled(receiver: Receiver, start: Start) -> None:
    receiver.answers["/bad"] = [status(500)]
    url = f"{receiver.url}/bad"
    with start(http_destinations={"*": {"disable_after": 1 / 3600}}) as rebound:
        schedule(rebound, url, *map(str, range(4)))
        wait_until(lambda: rebound.endpoints.get(url).failures >= 4)
        assert rebound.endpoints.get(url).disabled_at is None
        wait_until(lambda: rebound.endpoints.get(url).disabled_at is not None)
        assert "nothing but failures for 0.0 hours" in rebound.endpoints.get(url).reason
        wait_until(lambda: waiting(rebound) == 4)


def test_an_endpoint_that_refuses_everything_for_so_many_hours_is_disabled_with_strict_too(
    receiver: Receiver, start: Start
) -> None:
    receiver.answers["/moved"] = [status(404)]
    url = f"{receiver.url}/moved"
    with start(http_destinations={"*": {"disable_after": 1 / 3600, "strict": True}}) as rebound:
        schedule(rebound, url, *map(str, range(5)))
        wait_until(lambda: rebound.endpoints.get(url).failures == 5)
        wait_until(lambda: len(rebound.dead_set) == 5)
        time.sleep(1)
        schedule(rebound, url, "the last one that is sent")
        wait_until(lambda: rebound.endpoints.get(url).disabled_at is not None)
        schedule(rebound, url, "kept")
        wait_until(lambda: waiting(rebound) == 1)
        assert len(rebound.dead_set) == 6


def test_a_success_ends_a_series_of_failures(receiver: Receiver, start: Start) -> None:
    receiver.answers["/bad"] = [status(500), status(500), status(204)]
    url = f"{receiver.url}/bad"
    with start() as rebound:
        schedule(rebound, url, "a")
        wait_until(lambda: rebound.endpoints.get(url).failures == 1)
        wait_until(lambda: len(receiver.to("/bad")) == 3)
        wait_until(lambda: rebound.endpoints.get(url).failures == 0)


@pytest.mark.parametrize("code", [429, 502, 503, 504])
def test_an_endpoint_that_has_too_much_to_do_is_left_alone_and_others_of_its_host_are_not(
    code: int, receiver: Receiver, start: Start
) -> None:
    receiver.answers["/busy"] = [status(code, **{"Retry-After": "3"}), status(204)]
    busy, other = f"{receiver.url}/busy", f"{receiver.url}/other"
    with start() as rebound:
        schedule(rebound, busy, "first")
        wait_until(lambda: rebound.endpoints.get(busy).slow_until is not None)
        began = time.monotonic()
        schedule(rebound, busy, *map(str, range(5)))
        schedule(rebound, other, "x")
        wait_until(lambda: len(receiver.to("/other")) == 1)
        assert time.monotonic() - began < 2.5
        wait_until(lambda: len(receiver.to("/busy")) == 7)

        first, *rest = receiver.to("/busy")
        assert min(post.at for post in rest) - first.at >= 2.9
        attempts = {post.headers["Rebound-Id"]: post.headers["Rebound-Attempt"] for post in rest}
        assert attempts == {"first": "2", **dict.fromkeys("01234", "1")}


def test_what_an_endpoint_has_missed_is_recovered_since_a_time(receiver: Receiver, start: Start) -> None:
    receiver.answers["/bad"] = [status(500)]
    url = f"{receiver.url}/bad"
    with start() as rebound:
        schedule(rebound, url, "before", max_retries=0)
        schedule(rebound, f"{receiver.url}/missing", "another's", max_retries=0)
        receiver.answers["/missing"] = [status(500)]
        wait_until(lambda: len(rebound.dead_set) >= 1 and len(receiver.to("/bad")) == 1)
        time.sleep(0.05)
        since = datetime.now(UTC)
        schedule(rebound, url, "a", "b", max_retries=0)
        wait_until(lambda: len([one for one in rebound.dead_set if one.id in "ab"]) == 2)
        left = {message.id for message in rebound.dead_set} - {"a", "b"}
        receiver.answers["/bad"] = [status(204)]

        assert rebound.endpoints.recover(url, since) == 2

        wait_until(lambda: [post.headers["Rebound-Id"] for post in receiver.to("/bad")[3:]] in (["a", "b"], ["b", "a"]))
        assert {message.id for message in rebound.dead_set} == left
        assert rebound.endpoints.recover(url, datetime.now(UTC) - timedelta(days=1)) == 1


def test_an_endpoint_is_disabled_and_enabled_by_hand(receiver: Receiver, start: Start) -> None:
    url = f"{receiver.url}/a"
    with start() as rebound:
        disabled = rebound.endpoints.disable(url, "moves house")
        assert (disabled.reason, disabled.failing_since) == ("moves house", None)
        schedule(rebound, url, "a")
        wait_until(lambda: any(lane.name == f"http:{url}" for lane in lanes(rebound)))
        assert not receiver.posts
        assert rebound.endpoints.enable(url)
        wait_until(lambda: len(receiver.posts) == 1)
        assert not rebound.endpoints.enable(url)


@pytest.mark.parametrize("breaker", [None, True])
def test_a_disabled_endpoint_holds_what_waits_in_the_lane_of_a_rule_and_lets_it_go_at_its_rate(
    breaker: bool | None, receiver: Receiver, start: Start
) -> None:
    url, other = f"{receiver.url}/slow/a", f"{receiver.url}/slow/b"
    with start(rates={f"{receiver.url}/slow/*": 10, receiver.url: None}, breaker=breaker) as rebound:
        rebound.endpoints.disable(url)
        schedule(rebound, url, *map(str, range(20)))
        schedule(rebound, other, "other")
        wait_until(lambda: any((lane.name, lane.waiting) == (f"http:{url}", 20) for lane in lanes(rebound)))
        wait_until(lambda: len(receiver.to("/slow/b")) == 1)
        assert not receiver.to("/slow/a")

        assert rebound.endpoints.enable(url)
        wait_until(lambda: len(receiver.to("/slow/a")) == 20)
        assert {post.headers["Rebound-Attempt"] for post in receiver.posts} == {"1"}
        posts = receiver.to("/slow/a")
        assert posts[-1].at - posts[0].at > 1.6
        assert not lanes(rebound)


def test_with_a_circuit_breaker_an_endpoint_is_left_alone_only_if_it_says_for_how_long(
    receiver: Receiver, start: Start
) -> None:
    """Otherwise what the breaker should hold would wait in many lanes, which it does not open and close."""
    receiver.answers["/away"] = [status(503)]
    receiver.answers["/busy"] = [status(503, **{"Retry-After": "60"})]
    away, busy = f"{receiver.url}/away", f"{receiver.url}/busy"
    options = {"count": 3, "window": 20, "probe": 0.1, "max_probe": 0.1, "drain_rate": None}
    with start(breaker=options) as rebound:
        schedule(rebound, away, *map(str, range(10)))
        wait_until(lambda: rebound.breakers.get(away) is not None)
        assert rebound.endpoints.get(away).slow_until is None
        # Many probes are for the endpoint that is left alone, and none of them is waited for.
        schedule(rebound, busy, *(f"busy-{n}" for n in range(30)), is_priority=True)
        wait_until(lambda: rebound.endpoints.get(busy).slow_until is not None)
        receiver.answers["/away"] = [status(204)]

        wait_until(lambda: rebound.breakers.get(away) is None, timeout=20)

        wait_until(lambda: [lane.name for lane in lanes(rebound)] == [f"http:{busy}"], timeout=20)


def test_a_host_that_hangs_opens_the_breaker_and_what_had_begun_is_settled(receiver: Receiver, start: Start) -> None:
    released = receiver.release

    def hang(handler: Any) -> None:
        released.wait(30)
        handler.close_connection = True

    receiver.answers["/hook"] = [hang]
    url = f"{receiver.url}/hook"
    options = {"count": 5, "window": 20, "probe": 0.5, "max_probe": 0.5, "drain_rate": None}
    with start(breaker=options) as rebound:
        schedule(rebound, url, *map(str, range(30)), max_retries=0)
        wait_until(lambda: rebound.breakers.get(url) is not None, timeout=20)
        receiver.answers["/hook"] = [status(204)]

        wait_until(lambda: rebound.breakers.get(url) is None, timeout=30)

        wait_until(lambda: not lanes(rebound), timeout=20)
        # Those whose time-outs came before the breaker opened, and those that were under way then.
        assert len(rebound.dead_set) <= 5 + 8
        assert len({post.headers["Rebound-Id"] for post in receiver.posts}) == 30


def lanes(rebound: Rebound) -> list[Any]:
    with rebound._publisher.open() as schedule:
        return [lane for lane in schedule.lanes() if lane.waiting]


def test_what_cannot_be_used_is_named(redis_url: str) -> None:
    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))

    with pytest.raises(InvalidSettingError, match="url='ftp://x' cannot be used"):
        rebound.endpoints.enable("ftp://x")
    with pytest.raises(
        InvalidSettingError, match="url='kafka://orders' cannot be used: an endpoint is http://host/path"
    ):
        rebound.endpoints.enable("kafka://orders")
    with pytest.raises(InvalidSettingError, match=r"since=.* it is a datetime with a time zone"):
        rebound.endpoints.recover("https://a.test/", datetime(2026, 1, 1))
    with pytest.raises(InvalidSettingError, match="operator_url"):
        _ = Rebound(Celery("shop", set_as_current=False), operator_url="ops.example").settings


def test_while_redis_is_away_everything_is_sent(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    def away() -> Any:
        raise ConnectionError("Redis is away")

    inner: Destination = HttpDestination(2, 5)
    destination = HealthyEndpoints(inner, away, lambda _: 432_000, lambda *_: None)
    receiver.answers["/gone"] = [status(410)]

    with caplog.at_level(logging.WARNING):
        outcomes = destination.send([make_message(f"{receiver.url}/{name}") for name in ("a", "gone")])

    assert [type(outcome) for outcome in outcomes] == [Delivered, Failed]
    assert "the health of endpoints is not known: Redis is away" in caplog.text
    destination.close()


def test_an_operator_who_was_not_told_is_told_by_the_next_worker(
    receiver: Receiver, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here at once, and else after a minute."""
    source = script_runner._SOURCES["health"].replace("TELL_MS = 60000", "TELL_MS = 0")
    monkeypatch.setitem(script_runner._SOURCES, "health", source)
    monkeypatch.setitem(script_runner._digests, "health", script_runner._digest_of(source))
    told: list[str] = []

    def end(*_: Any) -> None:
        raise SystemExit

    def tell(name: str, _: Any) -> None:
        told.append(name)

    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))
    receiver.answers["/gone"] = [status(410)]
    url = f"{receiver.url}/gone"
    first, *others = (
        HealthyEndpoints(HttpDestination(2, 5), rebound._publisher.open, lambda _: 432_000, how)
        for how in (end, tell, tell)
    )
    with pytest.raises(SystemExit):
        first.send([make_message(url)])

    outcomes = [other.send([make_message(url)])[0] for other in others]

    assert {type(outcome) for outcome in outcomes} == {Held}
    assert told == [url]
    for destination in (first, *others):
        destination.close()
    rebound.close()


def test_an_operator_who_cannot_be_told_does_not_stop_the_deliveries(
    receiver: Receiver, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def tell(*_: Any) -> None:
        raise OSError("nobody listens")

    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))
    destination = HealthyEndpoints(HttpDestination(2, 5), rebound._publisher.open, lambda _: 432_000, tell)
    receiver.answers["/gone"] = [status(410)]
    url = f"{receiver.url}/gone"

    first, second = (destination.send([make_message(url)])[0] for _ in range(2))

    assert first == second == Held(f"the endpoint {url} is disabled: it answered 410 Gone", 0.0, f"http:{url}")
    assert len(receiver.posts) == 1
    assert "nobody was told of it" in caplog.text
    assert HttpAddress(url + "/../gone?x=1").parts.endpoint == url
    destination.close()
    rebound.close()
