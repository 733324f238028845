"""Plain `celery worker` processes that post: how they stop, what their log says, and what it does not say."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from celery import Celery
from redis import Redis
from standardwebhooks import Webhook

from rebound_celery import Rebound
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.destinations import Outcome
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.transport.credit import LEASED_QUEUE_BYTES
from tests.acceptance.apps.webhooks import KEY
from tests.acceptance.apps.worker import close_redis_connections
from tests.integration.test_http_answers import Receiver, say, whole
from tests.processes import Process
from tests.torture.proxy import ConnectionFault, Proxy
from tests.waiting import wait_until

StartWorker = Callable[..., Process]

#: The time-out of a post, and what the end of a worker may add to it.
TIMEOUT_S = 4
MARGIN_S = 5

#: What a Redis that answers nothing may add to it: the command under way, and those of the stop.
SILENCE_S = 30

#: The time between two heartbeats of a worker.
HEARTBEAT_S = 2


@pytest.fixture
def start_worker(run_process: Callable[..., Process], redis_url: str) -> StartWorker:
    def start(*options: str, app: str = "orders", **environment: str) -> Process:
        worker = run_process(
            *("-m", "celery", "-A", f"tests.acceptance.apps.{app}", "worker", "--loglevel=INFO", *options),
            env={"ORDERS_REDIS": redis_url, "REBOUND_HTTP_TIMEOUT": str(TIMEOUT_S), **environment},
        )
        worker.wait_for_output(" ready.", timeout=60)
        return worker

    return start


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    yield Rebound(Celery("web", broker=redis_url, set_as_current=False))
    close_redis_connections()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def left_in(url: str) -> int:
    with Redis.from_url(url) as redis:
        return redis.hlen(QueueKeys("", "rebound", (0, 3, 6, 9)).messages)


def ended_in(rebound: Rebound) -> list[Outcome]:
    """The outcomes that wait to be settled: of what ended after its job."""
    with rebound._publisher.open() as schedule:
        stored = schedule.page(count=1_000).entries
    deliveries = [Delivery.decode(one.id, one.stored) for one in stored]
    return [delivery.ended for delivery in deliveries if delivery.ended is not None]


def by_signal(worker: Process, rebound: Rebound) -> None:
    worker.signal(signal.SIGTERM)
    worker.wait_for_output("Warm shutdown", timeout=10)


def by_remote_control(worker: Process, rebound: Rebound) -> None:
    """As `celery control shutdown`."""
    rebound.app.control.shutdown()
    worker.wait_for_output("Got shutdown from remote", timeout=10)


Stop = Callable[[Process, Rebound], None]


@pytest.mark.parametrize(
    ("pool", "stop"),
    [
        *((pool, by_signal) for pool in ("prefork", "threads", "gevent", "solo")),
        # A solo worker hears nothing while it delivers.
        *((pool, by_remote_control) for pool in ("prefork", "threads", "gevent")),
    ],
)
def test_a_worker_that_is_told_to_stop_begins_no_post_and_ends_with_those_that_hang(
    pool: str, stop: Stop, rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    def hang(connection: socket.socket) -> None:
        receiver.released.wait(60)

    receiver.answer = hang
    worker = start_worker("-P", pool, "-c", "2")
    requests = [
        {"destination": receiver.url, "id": f"order-{n}", "base_delay": 1, "max_retries": 9, "attempt": 1}
        for n in range(300)
    ]
    rebound.schedule_retries(requests)
    wait_until(lambda: receiver.requests >= 8, timeout=20, message=worker.tail)

    began = time.monotonic()
    stop(worker, rebound)
    posted = receiver.requests

    assert worker.wait(TIMEOUT_S + MARGIN_S + 10) == 0
    assert time.monotonic() - began < TIMEOUT_S + MARGIN_S
    assert receiver.requests <= posted + 1
    assert left_in(redis_url) == 300, "nothing is lost"
    assert worker.output.count("attempt 3 follows") + len(ended_in(rebound)) == receiver.requests


@pytest.mark.parametrize("stop", [by_signal, by_remote_control])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_stop_begins_no_further_post_of_a_job_to_a_receiver_that_answers(
    pool: str, stop: Stop, rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    def slowly(connection: socket.socket) -> None:
        receiver.released.wait(0.5)
        connection.sendall(whole(200, b""))

    receiver.answer = slowly
    worker = start_worker("-P", pool, "-c", "2", REBOUND_HTTP_TIMEOUT="20")
    rebound.schedule_retries([{"destination": receiver.url, "id": f"order-{n}", "base_delay": 1} for n in range(64)])
    wait_until(lambda: receiver.requests >= 8, timeout=20, message=worker.tail)

    stop(worker, rebound)
    posted = receiver.requests

    assert worker.wait(20) == 0
    assert receiver.requests <= posted + 8, "what began while the signal was on its way"
    assert left_in(redis_url) == 64 - receiver.requests
    assert "the worker is stopping" in worker.output


def test_a_stop_is_bounded_when_the_connections_to_redis_were_cut(
    rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.answer = lambda _connection: receiver.released.wait(60)  # type: ignore[assignment, return-value]
    worker = start_worker("-P", "prefork", "-c", "2")
    rebound.schedule_retries([{"destination": receiver.url, "id": f"order-{n}", "base_delay": 1} for n in range(300)])
    wait_until(lambda: receiver.requests >= 8, timeout=20, message=worker.tail)

    with Redis.from_url(redis_url) as redis:
        redis.client_kill_filter(_type="normal", skipme=True)
    worker.signal(signal.SIGTERM)
    began = time.monotonic()

    assert worker.wait(TIMEOUT_S + MARGIN_S + 30) == 0
    assert time.monotonic() - began < TIMEOUT_S + MARGIN_S
    assert left_in(redis_url) == 300


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_a_stop_is_bounded_when_redis_takes_connections_and_answers_nothing(
    pool: str, rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    """It has posts under way, and heartbeats to send. Each command of Celery's stop would wait for an answer."""
    receiver.answer = lambda _connection: receiver.released.wait(60)  # type: ignore[assignment, return-value]
    server = urlsplit(redis_url)
    proxy = Proxy(server.port or 6379, 1)
    worker = start_worker("-P", pool, "-c", "2", ORDERS_REDIS=f"redis://127.0.0.1:{proxy.port}{server.path}")
    rebound.schedule_retries([{"destination": receiver.url, "id": f"order-{n}", "base_delay": 1} for n in range(300)])
    wait_until(lambda: receiver.requests, timeout=20, message=worker.tail)

    proxy.begin(ConnectionFault("stall"))
    # A heartbeat is under way.
    time.sleep(HEARTBEAT_S)
    worker.signal(signal.SIGTERM)
    began = time.monotonic()

    assert worker.wait(TIMEOUT_S + SILENCE_S + 60) == 0
    assert time.monotonic() - began < TIMEOUT_S + SILENCE_S
    proxy.begin(ConnectionFault("cut"))
    assert left_in(redis_url) == 300, "nothing is lost"


def test_the_log_tells_the_status_of_each_answer_that_is_no_success(
    rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.answer = say(whole(503, b"busy", b"Retry-After: 77"))
    worker = start_worker("-P", "prefork", "-c", "1")
    url = receiver.url.replace("http://", "http://user:hunter2@") + "?token=hunter2"
    rebound.schedule_retry(url, b"v", id="order-7", base_delay=1)

    output = worker.wait_for_output("failed with")

    (line,) = [line for line in output.splitlines() if "failed with" in line]
    assert f"POST {receiver.url} answered 503: busy; attempt 3 follows in 77.0 s" in line
    assert "WARNING" in line
    assert "hunter2" not in output


def test_posts_go_through_the_proxy_of_the_environment(
    rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    proxy = receiver.url.replace("http://", "http://user:hunter2@")
    worker = start_worker("-P", "prefork", "-c", "1", HTTP_PROXY=proxy)

    rebound.schedule_retry("http://shop.invalid/hook?a=1", b"v", id="order-7", base_delay=1)

    worker.wait_for_output("delivered message order-7")
    head = receiver.heads[0]
    assert head.startswith(b"POST http://shop.invalid/hook?a=1 HTTP/1.1\r\n")
    assert b"\r\nProxy-Authorization: Basic dXNlcjpodW50ZXIy" in head
    assert "hunter2" not in worker.output


def test_a_worker_that_stood_still_does_not_deliver_what_others_have_delivered(
    rebound: Rebound, receiver: Receiver, start_worker: StartWorker
) -> None:
    """As where its machine was paused for longer than a lease. What it had begun is posted twice, and no more."""

    def slowly(connection: socket.socket) -> None:
        receiver.released.wait(0.2)
        connection.sendall(whole(200, b""))

    receiver.answer = slowly
    still = start_worker("-P", "threads", "-c", "2", REBOUND_LEASE="3")
    rebound.schedule_retries([{"destination": receiver.url, "id": f"order-{n}", "base_delay": 1} for n in range(250)])
    wait_until(lambda: receiver.requests >= 8, timeout=20, message=still.tail)
    still.signal(signal.SIGSTOP)
    try:
        other = start_worker("-P", "threads", "-c", "2", "-n", "other@%h", REBOUND_LEASE="3")
        wait_until(lambda: receiver.requests >= 240, timeout=60, message=other.tail)
    finally:
        still.signal(signal.SIGCONT)

    # One job of 64 was under way. Others that it held were not.
    still.wait_for_output("another worker has them", timeout=20)
    still.stop(40)
    assert receiver.requests <= 250 + 64


def test_a_rate_limit_of_celery_s_is_refused_for_deliveries(start_worker: StartWorker, rebound: Rebound) -> None:
    """In `task_annotations` it is ignored with a warning; `celery control rate_limit` answers that it has no effect."""
    conf = {"task_annotations": {"rebound.deliver": {"rate_limit": "1/m"}}}
    worker = start_worker("-P", "threads", ORDERS_CONF=json.dumps(conf))

    limited = rebound.app.control.rate_limit("rebound.deliver", "1/m", reply=True, timeout=5)
    unlimited = rebound.app.control.rate_limit("rebound.deliver", 0, reply=True, timeout=5)

    assert worker.output.count("rate_limit='1/m' of task_annotations is ignored") == 1, worker.tail()
    assert "do not apply to rebound.deliver" in str(limited)
    assert "disabled successfully" in str(unlimited)


def test_a_worker_holds_few_large_messages_at_a_time(
    start_worker: StartWorker, rebound: Rebound, receiver: Receiver, redis_url: str
) -> None:
    """A backlog of them does not fill its memory."""
    sizes = [2_000_000] * 60
    # What is claimed at once, and the posts to the host that are under way.
    most = LEASED_QUEUE_BYTES // sizes[0] + 8
    for number, size in enumerate(sizes):
        rebound.schedule_retry(receiver.url, os.urandom(size), id=str(number), delay=0)
    may_answer = threading.Event()

    def answer(connection: socket.socket) -> None:
        may_answer.wait(30)
        connection.sendall(b"HTTP/1.1 204 x\r\n\r\n")

    receiver.answer = answer
    with Redis.from_url(redis_url) as redis:
        leased = QueueKeys("", "rebound", (0, 3, 6, 9)).leased
        start_worker("-P", "threads", REBOUND_HTTP_TIMEOUT="60")
        wait_until(lambda: receiver.requests >= 8, timeout=20)
        with pytest.raises(AssertionError):
            wait_until(lambda: redis.zcard(leased) > most, timeout=3)
        may_answer.set()
        wait_until(lambda: left_in(redis_url) == 0, timeout=40)
    assert receiver.requests >= len(sizes)


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_pool_of_one_greenlet_makes_one_job_after_the_other(
    start_worker: StartWorker, rebound: Rebound, receiver: Receiver, redis_url: str, pool: str
) -> None:
    may_answer = threading.Event()

    def answer(connection: socket.socket) -> None:
        may_answer.wait(20)
        connection.sendall(b"HTTP/1.1 204 x\r\n\r\n")

    receiver.answer = answer
    worker = start_worker("-P", pool, "-c", "1")
    rebound.schedule_retry(receiver.url, b"", delay=0)
    wait_until(lambda: receiver.requests == 1, timeout=10, message=worker.tail)
    # It is gathered while the first job runs.
    rebound.schedule_retry(receiver.url, b"", delay=0)
    ask = rebound.app.control.inspect(timeout=1)
    wait_until(lambda: any((ask.reserved() or {}).values()), timeout=10, message=worker.tail)
    may_answer.set()

    wait_until(lambda: left_in(redis_url) == 0, timeout=15, message=worker.tail)
    assert receiver.requests == 2


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_the_time_limits_of_the_app_s_tasks_end_no_post(
    start_worker: StartWorker, rebound: Rebound, receiver: Receiver, redis_url: str, pool: str
) -> None:
    """A post has a time-out of its own. An attempt that a shorter limit ended would be repeated without end."""

    def answer(connection: socket.socket) -> None:
        receiver.released.wait(2.5)
        connection.sendall(b"HTTP/1.1 204 x\r\n\r\n")

    receiver.answer = answer
    conf = {"task_soft_time_limit": 1, "task_time_limit": 2}
    worker = start_worker("-P", pool, "-c", "1", ORDERS_CONF=json.dumps(conf))
    for number in range(3):
        rebound.schedule_retry(receiver.url, b"", id=str(number), delay=0)

    wait_until(lambda: left_in(redis_url) == 0, timeout=15, message=worker.tail)
    assert receiver.requests == 3
    assert "time limit" not in worker.output


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_sends_signed_webhooks_and_refuses_private_addresses(
    pool: str, rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    worker = start_worker("-P", pool, "-c", "2", app="webhooks")

    rebound.schedule_retry(receiver.url, b"{}", id="order-7", delay=0)
    rebound.schedule_retry(receiver.url.replace("127.0.0.1", "127.0.0.2"), b"{}", id="order-8", delay=0)

    worker.wait_for_output("delivered message order-7")
    worker.wait_for_output("has no public address (127.0.0.2)")
    worker.wait_for_output("its dead letter is at dead-set order-8")
    fields = dict(line.lower().split(": ", 1) for line in receiver.heads[0].decode().split("\r\n")[1:])
    signature = [line.split(": ", 1)[1] for line in receiver.heads[0].decode().split("\r\n") if "-Signature: " in line]
    assert Webhook(KEY).verify(b"{}", {**fields, "webhook-signature": signature[0]}) == {}
    assert (fields["webhook-id"], fields["idempotency-key"], fields["x-shop"]) == ("order-7", "order-7", "7")
    assert len(receiver.heads) == 1


def test_a_message_under_way_in_a_process_that_is_killed_is_delivered_again(
    rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    receiver.answer = lambda _connection: receiver.released.wait(60)  # type: ignore[assignment, return-value]
    worker = start_worker("-P", "prefork", "-c", "2")
    rebound.schedule_retry(receiver.url, b"", id="order-7", delay=0)
    wait_until(lambda: receiver.requests == 1, timeout=20)
    # Its job has ended.
    wait_until(lambda: waiting_in(rebound) == 1, timeout=20)

    receiver.answer = say(whole(204, b""))
    for child in children_of(worker.pid):
        os.kill(child, signal.SIGKILL)

    worker.wait_for_output("delivered message order-7", timeout=60)
    assert receiver.requests == 2
    wait_until(lambda: left_in(redis_url) == 0)


def waiting_in(rebound: Rebound) -> int:
    with rebound._publisher.open() as schedule:
        counts = schedule.counts()
        return counts.waiting - counts.leased if counts.leased else counts.waiting


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("how", ["replace", "keep", "extend"])
def test_a_new_message_with_a_unique_key_is_posted_beside_one_whose_post_is_under_way(
    how: str, rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    began, answers = threading.Event(), iter([3.0])

    def slowly_at_first(connection: socket.socket) -> None:
        began.set()
        receiver.released.wait(next(answers, 0.0))
        connection.sendall(whole(200, b""))

    receiver.answer = slowly_at_first
    worker = start_worker("-P", "threads", "-c", "2", REBOUND_HTTP_TIMEOUT="10")
    first = rebound.schedule_retry(receiver.url, b"old", delay=0, unique_key="cart-7", unique=how)
    assert began.wait(10)
    # Its job ends, and its post goes on.
    wait_until(lambda: held_in(redis_url) == 1, timeout=10, message=worker.tail)

    second = rebound.schedule_retry(receiver.url, b"new", delay=0, unique_key="cart-7", unique=how)

    assert second.id != first.id
    wait_until(lambda: left_in(redis_url) == 0, timeout=20, message=worker.tail)
    assert receiver.requests == 2, "the new one is delivered, and neither is repeated"


def test_a_message_that_is_removed_while_its_post_is_under_way_does_not_come_back(
    rebound: Rebound, redis_url: str, receiver: Receiver, start_worker: StartWorker
) -> None:
    began = threading.Event()

    def fail_slowly(connection: socket.socket) -> None:
        began.set()
        receiver.released.wait(3)
        connection.sendall(whole(500, b""))

    receiver.answer = fail_slowly
    worker = start_worker("-P", "threads", "-c", "2", REBOUND_HTTP_TIMEOUT="10")
    rebound.schedule_retry(receiver.url, b"old", delay=0, base_delay=1)
    assert began.wait(10)
    wait_until(lambda: held_in(redis_url) == 1, timeout=10, message=worker.tail)

    assert rebound.app.control.purge() == 1
    threading.Event().wait(5)

    assert left_in(redis_url) == 0
    assert receiver.requests == 1


def held_in(url: str) -> int:
    """The messages whose posts are under way, although their jobs have ended."""
    with Redis.from_url(url) as redis:
        tokens = redis.hvals(QueueKeys("", "rebound", (0, 3, 6, 9)).leases)
    return sum(token.startswith(b"underway:") for token in tokens)
