"""`schedule_retry` and `schedule_retries` on a real Redis: the stored data, the cost, and the results for callers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, signals
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from redis import Redis

from rebound_celery import InvalidSettingError, NotStoredError, Rebound, UnreachableError
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.schedule.port import open_schedule
from rebound_celery.schedule.store.script_runner import CHUNK
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


def stored(rebound: Rebound) -> list[Delivery]:
    """What waits in rebound's queue, in the order in which it will be taken once it is due."""
    with open_schedule(rebound.app, rebound.settings.queue) as schedule:
        entries = schedule.page(count=10_000).entries
    return [
        Delivery.decode(entry.id, entry.stored, entry.priority)
        for entry in sorted(entries, key=lambda entry: (entry.priority, entry.due_ms))
    ]


def ids_of(rebound: Rebound) -> list[str]:
    return [delivery.message.id for delivery in stored(rebound)]


@pytest.mark.parametrize("prefix", ["", "shop:"])
def test_a_retry_lies_in_rebounds_queue_when_the_call_returns(redis_url: str, redis: Redis, prefix: str) -> None:
    rebound = make_rebound(redis_url, broker_transport_options={"global_keyprefix": prefix} if prefix else {})

    result = rebound.schedule_retry("kafka://orders", b"\x00\xff", id="order-7")

    (delivery,) = stored(rebound)
    assert isinstance(result, AsyncResult)
    assert result.id == delivery.task_id == "order-7:2"
    assert (delivery.message.id, delivery.message.value) == ("order-7", b"\x00\xff")
    assert all(key.startswith(prefix.encode()) for key in redis.keys() if b"rebound" in key)  # noqa: SIM118


def test_a_retry_with_priority_is_taken_before_those_without(redis_url: str) -> None:
    rebound = make_rebound(redis_url)

    rebound.schedule_retry("kafka://orders", id="slow")
    rebound.schedule_retry("kafka://orders", id="fast", is_priority=True)

    assert ids_of(rebound) == ["fast", "slow"]


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
    messages = ids_of(rebound)
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


def test_a_task_of_a_gevent_worker_hears_that_redis_is_away() -> None:
    """Celery's worker without an event loop has no time-out for a connection, and kombu would try for ever."""
    app = Celery("web", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.broker_connection_timeout = None
    rebound, raised = Rebound(app), []

    def call() -> None:
        with pytest.raises(NotStoredError) as not_stored:
            rebound.schedule_retry("kafka://orders", b"v")
        raised.append(not_stored)

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(20)

    assert raised


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
        assert ids_of(rebound) == ["after"]


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
    redis_url: str, run_process: Callable[..., Process]
) -> None:
    process = run_process("-c", FORKS, redis_url)

    assert process.wait(30) == 0, process.tail()
    ids = ids_of(make_rebound(redis_url))
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
    redis_url: str, run_process: Callable[..., Process]
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
    assert sorted(ids_of(rebound)) == [f"due {n}" for n in range(10)]


#: Celery's own Redis result backend uses it.
uses_setex = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@uses_setex
@pytest.mark.parametrize("backend", ["redis", "rpc"])
def test_the_result_of_a_retry_tells_where_it_lies(
    redis_url: str, kafka_brokers: str, topic: str, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = "rpc://" if backend == "rpc" else redis_url
    app = Celery("shop", broker=redis_url, backend=url, set_as_current=False)
    rebound = Rebound(app, kafka_brokers=kafka_brokers)

    with running_worker(app):
        result = rebound.schedule_retry(f"kafka://{topic}", b"v", base_delay=1)

        assert not result.ready()
        assert result.get(timeout=15).startswith(f"kafka:{topic}[")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("is_dropped", [False, True])
def test_nobody_waits_for_a_result_that_never_comes(redis_url: str, *, is_dropped: bool) -> None:
    """The app ignores the results of its tasks, or the policy drops the message."""
    rebound = make_rebound(redis_url, result_backend=redis_url, task_ignore_result=not is_dropped)
    policy = {"rules": [{"error": "ValueError", "then": "drop"}]} if is_dropped else None
    message = {"destination": "kafka://orders", "policy": policy, "error": ValueError("no")}

    results = [rebound.schedule_retry(**message), *rebound.schedule_retries([message])]

    assert [result.get(timeout=1) for result in results] == [None, None]
    assert len(stored(rebound)) == (0 if is_dropped else 2)


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


ODD_RETRIES: list[dict[str, Any]] = [
    {"destination": "kafka://orders"},
    {"destination": "kafka://orders", "message_data": {"Größe": 5}, "key": "k", "headers": {"a": "b"}, "id": "i"},
    {"destination": "kafka://orders", "message_data": b"\xff\x00", "id": '"%(id)s" \\ Größe', "is_priority": True},
    {"destination": "https://shop.example/hook?a=%20", "error": ValueError("% {"), "source": "100 %", "client_id": "c"},
    {"destination": "kafka://orders", "max_retries": 0},
    {"destination": "kafka://orders", "attempt": 3, "base_delay": 3600},
]


def test_listeners_of_celerys_signals_change_nothing_but_the_headers_that_they_add(redis_url: str) -> None:
    rebound = make_rebound(redis_url)

    def store() -> list[tuple[Any, ...]]:
        requests = [{"id": str(number), **request} for number, request in enumerate(ODD_RETRIES)]
        assert rebound.schedule_retries(requests).errors() == []
        found = [
            (one.task_id, one.message.value, one.message.destination, one.lane, one.priority, dict(one.task_headers))
            for one in stored(rebound)
        ]
        rebound.app.control.purge()
        return sorted(found, key=lambda one: one[0])

    def trace(headers: dict[str, Any], **_: Any) -> None:
        headers["traceparent"] = f"00-{headers['id']}"

    unseen = store()
    with listening(trace):
        seen = store()

    assert [one[:-1] for one in seen] == [one[:-1] for one in unseen]
    assert [one[-1] for one in unseen] == [{}] * len(ODD_RETRIES)
    assert [one[-1] for one in seen] == [{"traceparent": f"00-{one[0]}"} for one in seen]


@contextmanager
def listening(receiver: Callable[..., Any]) -> Iterator[None]:
    signals.before_task_publish.connect(receiver)
    yield
    signals.before_task_publish.disconnect(receiver)


def waiting(rebound: Rebound) -> int:
    with open_schedule(rebound.app, rebound.settings.queue) as schedule:
        return schedule.counts().waiting


def test_bulk_is_made_while_redis_is_at_work(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rebound = make_rebound(redis_url)
    made, stored_then, pack = [], [], Delivery.pack

    def noting(delivery: Delivery) -> bytes:
        made.append(1)
        if len(made) == CHUNK + 2:  # the first chunk is sent by now
            wait_until(lambda: waiting(rebound) == CHUNK)
            stored_then.append(len(made))
        return pack(delivery)

    monkeypatch.setattr(Delivery, "pack", noting)
    rebound.schedule_retries([{"destination": "kafka://orders"}] * (2 * CHUNK))

    assert stored_then == [CHUNK + 2]
    assert waiting(rebound) == 2 * CHUNK


def test_an_error_amid_a_bulk_leaves_a_connection_that_can_be_used(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rebound = make_rebound(redis_url)
    rebound.schedule_retry("kafka://orders", id="before")
    made, pack = [], Delivery.pack

    def failing(delivery: Delivery) -> bytes:
        made.append(1)
        if len(made) == CHUNK + 2:
            raise KeyboardInterrupt
        return pack(delivery)

    monkeypatch.setattr(Delivery, "pack", failing)
    with pytest.raises(KeyboardInterrupt):
        rebound.schedule_retries([{"destination": "kafka://orders"}] * (2 * CHUNK))
    rebound.schedule_retry("kafka://orders", id="after")

    assert {"before", "after"} <= set(ids_of(rebound))


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
    assert waiting(rebound) == 401


CALLERS = 8


def test_threads_that_schedule_at_once_share_round_trips(redis_url: str, redis: Redis) -> None:
    rebound = make_rebound(redis_url)
    rebound.schedule_retry("kafka://orders", id="connects")
    barrier = threading.Barrier(CALLERS)

    def schedule(caller: int) -> None:
        barrier.wait(10)
        for number in range(50):
            rebound.schedule_retry("kafka://orders", id=f"{caller}-{number}")

    before = commands_read(redis)
    threads = [threading.Thread(target=schedule, args=(caller,)) for caller in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert waiting(rebound) == 1 + CALLERS * 50
    assert commands_read(redis) - before < CALLERS * 50


def test_one_callers_fault_is_no_others(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rebound = make_rebound(redis_url)
    pack = Delivery.pack

    def pack_or_fail(delivery: Delivery) -> bytes:
        if delivery.message.id == "bad":
            raise RuntimeError("cannot be written")
        return pack(delivery)

    monkeypatch.setattr(Delivery, "pack", pack_or_fail)
    with pytest.raises(RuntimeError, match="cannot be written"):
        rebound.schedule_retry("kafka://orders", id="bad")
    rebound.schedule_retry("kafka://orders", id="good")

    assert ids_of(rebound) == ["good"]


def connections(redis: Redis) -> set[str]:
    return {one["id"] for one in redis.client_list()}
