"""`schedule_retry` and `schedule_retries` on a real Redis: what is stored, at what cost, and what callers are told."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, signals
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from msgspec.structs import replace
from redis import Redis

from rebound_celery import InvalidSettingError, NotStoredError, Rebound, UnreachableError
from rebound_celery.message import Message
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import CHUNK
from rebound_celery.schedule.transport import celery_form as stored_form
from rebound_celery.schedule.transport.celery_form import decode
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.processes import Process
from tests.servers import RedisServer
from tests.waiting import wait_until

#: kombu's own patience is some seconds.
FAST_GIVING_UP = {"max_retries": 0, "interval_start": 0, "interval_step": 0}


def make_rebound(url: str, **conf: Any) -> Rebound:
    app = Celery("shop", broker=url, set_as_current=False)
    app.conf.update(conf)
    return Rebound(app)


@pytest.fixture(autouse=True)
def _apps_leave_no_connection() -> Iterator[None]:
    yield
    close_redis_connections()


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def stored(redis: Redis, prefix: str = "") -> list[tuple[dict[str, Any], Message]]:
    """(headers, message) of what waits in rebound's queue, in the order in which it will be taken once it is due."""
    keys = QueueKeys(prefix, "rebound", (0, 3, 6, 9))
    result = []
    for waiting in keys.all_waiting():
        for identity, _due in redis.zrange(waiting, 0, -1, withscores=True):
            task = decode(redis.hget(keys.messages, identity))  # type: ignore[arg-type]
            encoded = task["properties"]["body_encoding"] == "base64"
            body = json.loads(base64.b64decode(task["body"]) if encoded else task["body"])
            result.append((task["headers"], Message.from_wire(body[0][0])))
    return result


@pytest.mark.parametrize("prefix", ["", "shop:"])
def test_a_retry_lies_in_rebounds_queue_when_the_call_returns(redis_url: str, redis: Redis, prefix: str) -> None:
    rebound = make_rebound(redis_url, broker_transport_options={"global_keyprefix": prefix} if prefix else {})

    result = rebound.schedule_retry("kafka://orders", b"\x00\xff", id="order-7")

    ((headers, message),) = stored(redis, prefix)
    assert isinstance(result, AsyncResult)
    assert result.id == headers["id"] == "order-7:2"
    assert (message.id, message.value) == ("order-7", b"\x00\xff")


def test_a_retry_with_priority_is_taken_before_those_without(redis_url: str, redis: Redis) -> None:
    rebound = make_rebound(redis_url)

    rebound.schedule_retry("kafka://orders", id="slow")
    rebound.schedule_retry("kafka://orders", id="fast", is_priority=True)

    assert [message.id for _, message in stored(redis)] == ["fast", "slow"]


def commands_read(redis: Redis) -> int:
    """How often the server has read from its clients: each round trip is one, or a few if it is large."""
    return int(redis.info("stats")["total_reads_processed"])


def test_many_retries_are_stored_in_few_round_trips_and_each_has_its_outcome_in_order(
    redis_url: str, redis: Redis
) -> None:
    rebound = make_rebound(redis_url)
    requests = [{"destination": "kafka://orders", "id": f"order-{n}", "message_data": {"n": n}} for n in range(2500)]
    requests[7] = {"destination": "kafka://or ders", "id": "order-7"}
    requests[1200] = {"destination": "kafka://orders", "id": "order-1200", "max_retries": 101}
    requests[2400]["is_priority"] = True
    bad = {7, 1200}
    rebound.schedule_retry("kafka://orders", id="connects")

    before = commands_read(redis)
    outcomes = rebound.schedule_retries(iter(requests))
    round_trips = commands_read(redis) - before

    good_ids = [f"order-{n}" for n in range(2500) if n not in bad]
    assert len(outcomes) == 2500
    assert {n for n, outcome in enumerate(outcomes) if isinstance(outcome, InvalidSettingError)} == bad
    assert [outcome.id for outcome in outcomes if isinstance(outcome, AsyncResult)] == [f"{i}:2" for i in good_ids]
    messages = [message.id for _, message in stored(redis)]
    assert messages[0] == "order-2400"
    assert sorted(messages) == sorted(["connects", *good_ids])
    assert round_trips < 400, "about 2,500 would be one for each"


def test_no_retries_are_no_round_trip(redis_url: str) -> None:
    assert make_rebound("redis://127.0.0.1:1/0").schedule_retries([]) == []


def test_without_redis_the_caller_is_told_within_seconds_that_nothing_is_stored() -> None:
    """With kombu's own patience, which `broker_transport_options` can shorten."""
    rebound = make_rebound("redis://127.0.0.1:1/0")
    started = time.monotonic()

    with pytest.raises(NotStoredError, match=r"Redis at redis://127\.0\.0\.1:1/0") as not_stored:
        rebound.schedule_retry("kafka://orders")

    assert isinstance(not_stored.value, OperationalError)
    assert time.monotonic() - started < 15


def test_without_redis_each_of_many_retries_has_its_error() -> None:
    rebound = make_rebound("redis://127.0.0.1:1/0", broker_transport_options=FAST_GIVING_UP)

    outcomes = rebound.schedule_retries([{"destination": "kafka://orders"}, {"destination": "?"}] * 2)

    expected = [NotStoredError, InvalidSettingError, NotStoredError, InvalidSettingError]
    assert [type(outcome) for outcome in outcomes] == expected
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        rebound.check_redis()


def test_scheduling_goes_on_by_itself_when_redis_is_back() -> None:
    with RedisServer() as server:
        rebound = make_rebound(server.url, broker_transport_options=FAST_GIVING_UP)
        rebound.schedule_retry("kafka://orders", id="before")
        server.kill()
        with pytest.raises(NotStoredError):
            rebound.schedule_retry("kafka://orders", id="while away")
        assert isinstance(rebound.schedule_retries([{"destination": "kafka://orders"}])[0], NotStoredError)
        server.start()

        rebound.schedule_retry("kafka://orders", id="after")
        rebound.check_redis()
        with Redis.from_url(server.url) as redis:
            assert [message.id for _, message in stored(redis)] == ["after"]


@pytest.mark.parametrize("count", [1, 3], ids=["one", "many"])
def test_a_redis_without_memory_has_not_stored_it(count: int) -> None:
    with RedisServer(options=["--maxmemory", "1", "--maxmemory-policy", "noeviction"]) as server:
        rebound = make_rebound(server.url, broker_transport_options=FAST_GIVING_UP)

        outcomes = rebound.schedule_retries([{"destination": "kafka://orders"}] * count)

    assert [type(outcome) for outcome in outcomes] == [NotStoredError] * count


FORKS = """
import os, sys
from celery import Celery
from rebound_celery import Rebound

rebound = Rebound(Celery("shop", broker=sys.argv[1]))
rebound.schedule_retry("kafka://orders", id="parent before")
children = []
for name in ("child 1", "child 2"):
    pid = os.fork()
    if not pid:
        for n in range(50):
            rebound.schedule_retry("kafka://orders", id=f"{name} {n}")
        os._exit(0)
    children.append(pid)
for n in range(50):
    rebound.schedule_retry("kafka://orders", id=f"parent {n}")
sys.exit(sum(os.waitpid(pid, 0)[1] for pid in children))
"""


def test_parent_and_forked_children_schedule_over_connections_of_their_own(
    redis_url: str, redis: Redis, run_process: Callable[..., Process]
) -> None:
    process = run_process("-c", FORKS, redis_url)

    assert process.wait(30) == 0, process.tail()
    ids = [message.id for _, message in stored(redis)]
    assert len(ids) == len(set(ids)) == 151


PLAIN_APP = """
import sys
from celery import Celery

app = Celery("shop", broker=sys.argv[1])

@app.task(name="shop.ping")
def ping(n):
    print(f"pinged {n}", flush=True)

app.worker_main(["worker", "--pool=solo", "--loglevel=INFO"])
"""


def test_a_worker_without_rebound_on_the_same_redis_never_receives_a_retry(
    redis_url: str, redis: Redis, run_process: Callable[..., Process]
) -> None:
    """Celery drops messages of tasks that it does not know: such a worker must not even see them."""
    rebound = make_rebound(redis_url)
    plain = run_process("-c", PLAIN_APP, redis_url)
    plain.wait_for_output(" ready.", timeout=30)

    for n in range(10):
        rebound.schedule_retry("kafka://orders", id=f"due {n}", max_retries=0)
        rebound.app.send_task("shop.ping", args=[n])
    plain.wait_for_output("pinged 9")
    assert plain.stop() == 0

    assert plain.output.count("pinged") == 10
    assert "rebound" not in plain.output
    assert sorted(message.id for _, message in stored(redis)) == [f"due {n}" for n in range(10)]


#: Celery's own Redis result backend uses it.
uses_setex = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@uses_setex
def test_the_result_of_a_retry_tells_where_it_lies(redis_url: str, kafka_brokers: str, topic: str) -> None:
    app = Celery("shop", broker=redis_url, backend=redis_url, set_as_current=False)
    rebound = Rebound(app, kafka_brokers=kafka_brokers)

    with running_worker(app):
        result = rebound.schedule_retry(f"kafka://{topic}", b"v", base_delay=1)

        assert not result.ready()
        assert result.get(timeout=15).startswith(f"kafka:{topic}[")


@uses_setex
def test_a_revoked_retry_is_not_delivered(
    redis_url: str, kafka_brokers: str, topic: str, read_topic: Callable[..., list[Any]]
) -> None:
    app = Celery("shop", broker=redis_url, backend=redis_url, set_as_current=False)
    rebound = Rebound(app, kafka_brokers=kafka_brokers)

    with running_worker(app):
        revoked = rebound.schedule_retry(f"kafka://{topic}", b"revoked", base_delay=2)
        revoked.revoke()
        rebound.schedule_retry(f"kafka://{topic}", b"kept", base_delay=2)
        wait_until(lambda: revoked.state == "REVOKED", timeout=15)

        assert [record.value for record in read_topic(topic, 1)] == [b"kept"]


MESSAGES = QueueKeys("", "rebound", (0, 3, 6, 9)).messages

ODD_RETRIES: list[dict[str, Any]] = [
    {"destination": "kafka://orders"},
    {"destination": "kafka://orders", "message_data": {"Größe": 5}, "key": "k", "headers": {"a": "b"}, "id": "i"},
    {"destination": "kafka://orders", "message_data": b"\xff\x00", "id": '"%(id)s" \\ Größe', "is_priority": True},
    {"destination": "https://shop.example/hook?a=%20", "error": ValueError("% {"), "source": "100 %", "client_id": "c"},
    {"destination": "kafka://orders", "max_retries": 0},
    {"destination": "kafka://orders", "attempt": 3, "base_delay": 3600},
]


@pytest.mark.parametrize("conf", [{}, {"task_time_limit": 30, "task_ignore_result": True}, {"timezone": "Asia/Tokyo"}])
def test_what_nobody_sees_made_is_stored_as_what_is_seen(redis_url: str, redis: Redis, conf: dict[str, Any]) -> None:
    """Who listens to Celery's signals is given each message; else only its stored form is made."""
    rebound = make_rebound(redis_url, **conf)

    def store() -> list[tuple[bytes, dict[str, Any]]]:
        requests = [{"id": str(number), **request} for number, request in enumerate(ODD_RETRIES)]
        assert not [one for one in rebound.schedule_retries(requests) if isinstance(one, Exception)]
        found = sorted((identity, decode(body)) for identity, body in redis.hgetall(MESSAGES).items())
        for _, message in found:  # made at another time
            message["headers"]["eta"] = message["headers"]["eta"] is not None
            (wire,), *rest = json.loads(message["body"])
            message["body"] = replace(Message.from_wire(wire), first_failed_at=0, history=()), rest
        redis.flushdb()
        return found

    unseen, seen = store(), []
    with listening(lambda **arguments: seen.append(arguments)):
        assert store() == unseen
    assert len(seen) == len(unseen) == len(ODD_RETRIES)


@contextmanager
def listening(receiver: Callable[..., Any]) -> Iterator[None]:
    signals.after_task_publish.connect(receiver)
    yield
    signals.after_task_publish.disconnect(receiver)


def test_bulk_is_made_while_redis_is_at_work(redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    rebound = make_rebound(redis_url)
    made, stored_then, encode = [], [], stored_form.Template.encode

    def noting(stencil: Any, *arguments: Any) -> bytes:
        made.append(1)
        if len(made) == CHUNK + 2:  # the first chunk is sent by now
            wait_until(lambda: redis.hlen(MESSAGES) == CHUNK)
            stored_then.append(len(made))
        return encode(stencil, *arguments)

    monkeypatch.setattr(stored_form.Template, "encode", noting)
    rebound.schedule_retries([{"destination": "kafka://orders"}] * (2 * CHUNK))

    assert stored_then == [CHUNK + 2]
    assert redis.hlen(MESSAGES) == 2 * CHUNK


def test_an_error_amid_a_bulk_leaves_a_connection_that_can_be_used(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebound = make_rebound(redis_url)
    rebound.schedule_retry("kafka://orders", id="before")
    made, encode = [], stored_form.Template.encode

    def failing(stencil: Any, *arguments: Any) -> bytes:
        made.append(1)
        if len(made) == CHUNK + 2:
            raise KeyboardInterrupt
        return encode(stencil, *arguments)

    monkeypatch.setattr(stored_form.Template, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        rebound.schedule_retries([{"destination": "kafka://orders"}] * (2 * CHUNK))
    rebound.schedule_retry("kafka://orders", id="after")

    assert {b"before:2", b"after:2"} <= set(redis.hkeys(MESSAGES))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_stores_over_a_connection_of_its_own(redis_url: str, redis: Redis) -> None:
    rebound = make_rebound(redis_url)
    rebound.schedule_retry("kafka://orders", id="parent-0")
    before = connections(redis)
    reader, writer = os.pipe()

    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(writer)
            for number in range(200):
                rebound.schedule_retry("kafka://orders", id=f"child-{number}")
            os.read(reader, 1)  # until the parent has seen the connection
            status = 0
        finally:
            os._exit(status)
    try:
        for number in range(1, 200):
            rebound.schedule_retry("kafka://orders", id=f"parent-{number}")
        wait_until(lambda: connections(redis) - before)
    finally:
        os.close(writer)
        os.close(reader)
        _, status = os.waitpid(child, 0)

    assert status == 0
    rebound.schedule_retry("kafka://orders", id="parent-200")
    assert redis.hlen(MESSAGES) == 401


def connections(redis: Redis) -> set[str]:
    return {one["id"] for one in redis.client_list()}
