"""The dead set keeps dead letters in Redis that have no other destination, with and without a key prefix."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from msgspec.structs import replace
from redis import Redis

from rebound_celery import Message, Rebound
from rebound_celery.destinations import Delivered, Unavailable
from rebound_celery.destinations.dead_set import DeadSetDestination
from rebound_celery.embedded import free_port
from rebound_celery.message import codec
from rebound_celery.message.address import DEAD_SET, HttpAddress
from rebound_celery.policy import Failure, RetryPolicy
from rebound_celery.schedule.port import DeadEntry, open_schedule
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.waiting import wait_until

MESSAGE = Message(
    id="order-7",
    value=b"\x00\xff",
    key=b"k",
    headers=(("a", b"1"), ("a", b""), ("n", None)),
    destination=HttpAddress("http://127.0.0.1:1/"),
    dead_destination=DEAD_SET,
    attempt=4,
    policy=RetryPolicy(3, 1),
    reason="rejected",
    failure=Failure("ValueError", "bad", "Traceback"),
)


@pytest.fixture(params=["", "shop:"], ids=["no prefix", "prefix"])
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _apps_leave_no_connection() -> Iterator[None]:
    yield
    close_redis_connections()


@pytest.fixture
def rebound(redis_url: str, prefix: str) -> Rebound:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    if prefix:
        app.conf.broker_transport_options = {"global_keyprefix": prefix}
    return Rebound(app, http_connect_timeout=1, http_timeout=1)


@pytest.fixture
def dead_set(rebound: Rebound) -> DeadSetDestination:
    """What writes what `rebound.dead_set` reads."""
    return writer_of(rebound)


def writer_of(rebound: Rebound) -> DeadSetDestination:
    return DeadSetDestination(lambda: open_schedule(rebound.app, rebound.settings.queue))


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_a_dead_letter_without_another_place_is_kept_whole(rebound: Rebound, redis: Redis, prefix: str) -> None:
    """The way of a real one: an HTTP destination that refuses, and no dead destination."""
    url = f"http://127.0.0.1:{free_port()}/hook"

    with running_worker(rebound.app):
        headers = [("a", b"1"), ("a", b"")]
        rebound.schedule_retry(url, b"\x00\xff", key=b"k", headers=headers, max_retries=1, base_delay=1)
        wait_until(lambda: len(rebound.dead_set) == 1, timeout=15)

    (letter,) = rebound.dead_set
    assert (letter.value, letter.key, letter.headers) == (b"\x00\xff", b"k", (("a", b"1"), ("a", b"")))
    assert (letter.reason, letter.attempt, str(letter.destination)) == ("retries-exhausted", 2, url)
    assert letter.failure is not None
    assert "refused" in letter.failure.message
    assert all(key.startswith(prefix.encode()) for key in redis.keys() if b"rebound" in key)  # noqa: SIM118
    assert {redis.ttl(key) for key in redis.keys() if b"dead" in key} == {-1}  # noqa: SIM118


def test_the_code_of_the_operations_page_replays_the_dead_set(rebound: Rebound, dead_set: DeadSetDestination) -> None:
    page = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8")
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "dead_set" in code]
    url = f"http://user:secret@127.0.0.1:{free_port()}/hook?key=1"
    dead_message = replace(MESSAGE, destination=HttpAddress(url), policy=RetryPolicy(0, 1), content_type="text/x-order")
    assert dead_set.send([dead_message]) == [Delivered("dead-set order-7")]

    exec(compile(code, "docs/operations.md", "exec"), {"app": rebound.app, "Rebound": lambda _: rebound})

    assert len(rebound.dead_set) == 0
    with running_worker(rebound.app):  # nobody listens there, so the message dies again
        wait_until(lambda: len(rebound.dead_set) == 1, timeout=15)
    (letter,) = rebound.dead_set
    assert (letter.id, letter.value, letter.key) == (dead_message.id, dead_message.value, dead_message.key)
    assert letter.headers == (*dead_message.headers, ("Content-Type", b"text/x-order"))
    assert (letter.destination, letter.policy, letter.attempt) == (dead_message.destination, dead_message.policy, 1)


def test_letters_are_read_as_they_were_written_the_oldest_first(rebound: Rebound, dead_set: DeadSetDestination) -> None:
    letters = [replace(MESSAGE, id=name) for name in ("c", "a", "b")]

    for letter in letters:
        assert dead_set.send([letter]) == [Delivered(f"dead-set {letter.id}")]
        time.sleep(0.002)  # they are ordered by Redis' clock, in milliseconds

    assert list(rebound.dead_set) == letters
    assert len(rebound.dead_set) == 3


def test_a_letter_that_is_written_twice_is_kept_once(rebound: Rebound, dead_set: DeadSetDestination) -> None:
    dead_set.send([MESSAGE])
    dead_set.send([MESSAGE, replace(MESSAGE, id="other")])

    assert len(rebound.dead_set) == 2
    assert {letter.id for letter in rebound.dead_set} == {"order-7", "other"}


def test_more_letters_than_a_page_are_all_read(rebound: Rebound, dead_set: DeadSetDestination) -> None:
    dead_set.send([replace(MESSAGE, id=f"{number}") for number in range(250)])

    assert {letter.id for letter in rebound.dead_set} == {f"{number}" for number in range(250)}


def test_removed_letters_are_gone_and_the_others_stay(rebound: Rebound, dead_set: DeadSetDestination) -> None:
    dead_set.send([replace(MESSAGE, id=name) for name in "abc"])

    assert rebound.dead_set.remove("a", "c", "no such letter") == 2
    assert rebound.dead_set.remove() == 0
    assert [letter.id for letter in rebound.dead_set] == ["b"]
    assert rebound.dead_set.remove("b") == 1
    assert len(rebound.dead_set) == 0


def test_a_letter_of_the_schedule_has_its_reason_and_can_be_removed_by_its_messages_id(rebound: Rebound) -> None:
    """The schedule gives up a message by itself whose owner could not."""
    alive = replace(MESSAGE, reason=None)
    with open_schedule(rebound.app, "rebound") as schedule:
        schedule.keep_dead([DeadEntry("order-7:4", "worker-lost", codec.encode(alive))])

    assert [(letter.id, letter.reason) for letter in rebound.dead_set] == [("order-7", "worker-lost")]
    assert rebound.dead_set.remove("order-7") == 1


UNREADABLE: dict[str, Any] = {
    "empty": "",
    "text": "a text",
    "null": None,
    "list": [1, 2],
    "damaged": base64.b64encode(b"\x11damaged").decode(),
}


def test_what_no_worker_can_read_is_kept_and_hides_no_readable_letter(
    rebound: Rebound, dead_set: DeadSetDestination
) -> None:
    dead_set.send([MESSAGE])

    with running_worker(rebound.app):
        for task_id, argument in UNREADABLE.items():
            rebound.app.send_task("rebound.deliver", args=[argument], queue="rebound", task_id=task_id)
        wait_until(lambda: len(rebound.dead_set) == 1 + len(UNREADABLE), timeout=15)

    assert list(rebound.dead_set) == [MESSAGE]
    with open_schedule(rebound.app, "rebound") as schedule:
        letters = {letter.id: letter for letter in schedule.dead().letters}
    assert {letters[task_id].reason for task_id in UNREADABLE} == {"unreadable"}
    assert b"a text" in letters["text"].stored


def test_redis_away_is_an_outage_for_each_letter_and_no_exception() -> None:
    app = Celery("shop", broker=f"redis://127.0.0.1:{free_port()}/0", set_as_current=False)
    app.conf.broker_transport_options = {"max_retries": 0, "interval_start": 0, "interval_step": 0}

    outcomes = writer_of(Rebound(app)).send([MESSAGE, replace(MESSAGE, id="other")])

    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]


def test_letters_are_removed_after_their_time_to_live_and_only_then(rebound: Rebound) -> None:
    now_ms = time.time_ns() // 1_000_000
    old = [DeadEntry(f"old-{number}", "r", b"x", now_ms - 60_000 - number) for number in range(5)]
    with open_schedule(rebound.app, rebound.settings.queue) as schedule:
        schedule.keep_dead([*old, DeadEntry("young", "r", b"x", now_ms)])
        assert schedule.expire_dead(120_000) == 0
        assert schedule.expire_dead(59_000, 2) == 2
        assert {letter.id for letter in schedule.dead().letters} == {"old-0", "old-1", "old-2", "young"}
        assert schedule.expire_dead(59_000) == 3
        assert [letter.id for letter in schedule.dead().letters] == ["young"]
        assert schedule.counts().dead == 1
        assert schedule.stats()["expired"] == 5
