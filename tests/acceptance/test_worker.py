"""Plain `celery worker` processes deliver retries. Stopped or killed workers and children lose no retry."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from rebound_celery import Rebound
from rebound_celery.schedule.port import DeadEntry, open_schedule
from rebound_celery.schedule.store.keys import QueueKeys
from tests.acceptance.apps.worker import close_redis_connections
from tests.processes import Process
from tests.waiting import wait_until

StartWorker = Callable[..., Process]


@pytest.fixture
def start_worker(run_process: Callable[..., Process], redis_url: str) -> StartWorker:
    """`start_worker(*options, **environment)`: a worker of the app `orders` that is ready."""

    def start(*options: str, **environment: str) -> Process:
        worker = run_process(
            *("-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "--loglevel=INFO", *options),
            env={"ORDERS_REDIS": redis_url, **environment},
        )
        worker.wait_for_output(" ready.", timeout=60)
        return worker

    return start


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    """The app of a process that only schedules, such as a web server."""
    yield Rebound(Celery("web", broker=redis_url, set_as_current=False))
    close_redis_connections()


class HangingReceiver:
    """Answers the first posts, `hanging` of them, only when `release` is set, and each later one at once."""

    def __init__(self) -> None:
        self.hanging = 1
        self.posts: list[str] = []
        self.answered: list[str] = []
        self.release = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append(self.headers["Rebound-Attempt"])
                if len(receiver.posts) <= receiver.hanging:
                    receiver.release.wait(60)
                self.send_response(204)
                self.end_headers()
                receiver.answered.append(self.headers["Rebound-Id"])

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """The clients are killed on purpose."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[HangingReceiver]:
    receiver = HangingReceiver()
    yield receiver
    receiver.close()


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


KEYS = QueueKeys("", "rebound", (0, 3, 6, 9))


def left_in(url: str) -> int:
    """How many messages wait, or are under a worker's lease."""
    with Redis.from_url(url) as redis:
        return redis.hlen(KEYS.messages)


def leased_in(url: str) -> int:
    with Redis.from_url(url) as redis:
        return redis.zcard(KEYS.leased)


@pytest.mark.parametrize("client", ["kafka-python", "confluent"])
@pytest.mark.parametrize(
    "pool",
    [["-P", "prefork", "-c", "2"], ["-P", "threads", "-c", "4"], ["-P", "gevent", "-c", "4"]],
    ids=lambda pool: pool[1],
)
def test_a_plain_worker_delivers_every_retry_once_and_stops_cleanly(
    pool: list[str],
    client: str,
    rebound: Rebound,
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    start_worker: StartWorker,
    read_topic: Callable[..., list[Any]],
) -> None:
    worker = start_worker(*pool, REBOUND_KAFKA_BROKERS=kafka_brokers, REBOUND_KAFKA_CLIENT=client)

    rebound.schedule_retries(
        [
            {"destination": f"kafka://{topic}", "message_data": str(n), "key": f"k{n}", "base_delay": 1}
            for n in range(50)
        ]
    )
    rebound.app.send_task("tests.acceptance.apps.orders.ship", args=[7])

    records = read_topic(topic, 50, timeout=30)
    assert sorted(int(record.value) for record in records) == list(range(50))
    wait_until(lambda: left_in(redis_url) == 0, message="every message is acknowledged")
    worker.wait_for_output("ship[", timeout=10)
    assert worker.stop() == 0
    assert "Traceback" not in worker.output
    assert "rebound.deliver" in worker.output
    assert "Attempting bootstrap" not in worker.output, "kafka-python's chatter drowns the worker's own log"


def kill_child(worker: Process) -> None:
    (child,) = children_of(worker.pid)
    os.kill(child, signal.SIGKILL)


def test_a_delivery_whose_process_dies_is_made_again(
    rebound: Rebound, redis_url: str, receiver: HangingReceiver, start_worker: StartWorker
) -> None:
    """A time limit of the app's tasks does not end a delivery; test_worker_http.py shows that."""
    worker = start_worker("-P", "prefork", "-c", "1", REBOUND_MAX_WORKER_LOSSES="99")

    rebound.schedule_retry(receiver.url, b"v", id="order-7", attempt=1, max_retries=1, base_delay=1)
    wait_until(lambda: receiver.posts, timeout=20, message=worker.tail)
    kill_child(worker)

    wait_until(lambda: "order-7" in receiver.answered, timeout=30, message=worker.tail)
    wait_until(lambda: left_in(redis_url) == 0, timeout=20, message=worker.tail)
    assert set(receiver.posts) == {"2"}, "the death of a worker is no failed attempt of the message"
    assert "dead-set" not in worker.output


def test_a_message_that_costs_three_workers_is_a_dead_letter(
    rebound: Rebound, redis_url: str, receiver: HangingReceiver, start_worker: StartWorker
) -> None:
    """A time limit would not do here: on a busy machine a child may need longer than that to post at all."""
    receiver.hanging = 99
    worker = start_worker("-P", "prefork", "-c", "1")
    rebound.schedule_retry(receiver.url, b"v", id="order-7", base_delay=1)

    for losses in range(3):
        wait_until(lambda losses=losses: len(receiver.posts) == losses + 1, timeout=40, message=worker.tail)
        assert len(rebound.dead_set) == 0
        kill_child(worker)

    wait_until(lambda: len(rebound.dead_set) == 1, timeout=40, message=worker.tail)
    (letter,) = rebound.dead_set
    assert (letter.id, letter.reason, letter.attempt) == ("order-7", "worker-lost", 2)
    assert receiver.posts == ["2", "2", "2"]
    wait_until(lambda: left_in(redis_url) == 0, message=worker.tail)


def test_a_message_whose_workers_are_killed_is_a_dead_letter_at_its_destination(
    rebound: Rebound, redis_url: str, receiver: HangingReceiver, start_worker: StartWorker
) -> None:
    receiver.hanging = 99
    rebound.schedule_retry(receiver.url, b"v", id="order-7", base_delay=1)

    for losses in range(3):
        worker = start_worker("-P", "threads", REBOUND_LEASE="1")
        wait_until(lambda losses=losses: len(receiver.posts) == losses + 1, timeout=20, message=worker.tail)
        worker.kill()
    last = start_worker("-P", "threads", REBOUND_LEASE="1")

    wait_until(lambda: len(rebound.dead_set) == 1, timeout=20, message=last.tail)
    (letter,) = rebound.dead_set
    assert (letter.id, letter.reason) == ("order-7", "worker-lost")
    assert len(receiver.posts) == 3
    wait_until(lambda: left_in(redis_url) == 0, message=last.tail)


def test_a_worker_that_is_stopped_leaves_its_waiting_retries_to_the_next(
    rebound: Rebound,
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    start_worker: StartWorker,
    read_topic: Callable[..., list[Any]],
) -> None:
    requests = [{"destination": f"kafka://{topic}", "id": f"order-{n}", "base_delay": 4} for n in range(100)]
    first = start_worker("-P", "threads", REBOUND_KAFKA_BROKERS=kafka_brokers)
    rebound.schedule_retries(requests)

    assert first.stop() == 0
    assert left_in(redis_url) == 100
    second = start_worker("-P", "threads", REBOUND_KAFKA_BROKERS=kafka_brokers)

    records = read_topic(topic, 100, timeout=30)
    ids = [dict(record.headers)["rebound-id"].decode() for record in records]
    assert sorted(ids) == sorted(request["id"] for request in requests)
    wait_until(lambda: left_in(redis_url) == 0, message=second.tail)
    assert "rebound.deliver" in second.output


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_cut_connections_make_no_delivery_twice(
    pool: str, rebound: Rebound, redis_url: str, receiver: HangingReceiver, start_worker: StartWorker
) -> None:
    """A job is under way; what is gathered behind it is done by this worker, or given back, but not both."""
    receiver.hanging = 999
    worker = start_worker("-P", pool, "-c", "2")
    rebound.schedule_retries([{"destination": receiver.url, "id": f"order-{n}", "base_delay": 1} for n in range(150)])
    wait_until(lambda: receiver.posts and leased_in(redis_url) == 150, timeout=20, message=worker.tail)

    with Redis.from_url(redis_url) as redis:
        redis.client_kill_filter(_type="normal", skipme=True)
    worker.wait_for_output("Connected to redis://", times=2)
    receiver.release.set()

    wait_until(lambda: left_in(redis_url) == 0, timeout=30, message=worker.tail)
    assert sorted(receiver.answered) == sorted(f"order-{n}" for n in range(150))


def test_a_delivery_that_is_cancelled_at_a_cut_connection_is_made_once_more(
    rebound: Rebound, redis_url: str, receiver: HangingReceiver, start_worker: StartWorker
) -> None:
    """Celery ends the child then; what it was at is given back, and not done by this worker as well."""
    receiver.hanging = 99
    setting = "worker.cancel_long_running_tasks_on_connection_loss=yes"
    worker = start_worker("-P", "prefork", "-c", "2", "--", setting)
    rebound.schedule_retry(receiver.url, b"v", id="order-7", base_delay=1)
    wait_until(lambda: receiver.posts, timeout=20, message=worker.tail)

    with Redis.from_url(redis_url) as redis:
        redis.client_kill_filter(_type="normal", skipme=True)
    worker.wait_for_output("a job of 1 deliveries was lost")
    wait_until(lambda: len(receiver.posts) > 1, timeout=20, message=worker.tail)
    receiver.release.set()

    wait_until(lambda: left_in(redis_url) == 0, timeout=30, message=worker.tail)
    assert worker.stop() == 0
    assert len(receiver.posts) == 2


def test_a_delivery_under_way_is_finished_when_the_worker_is_told_to_stop(
    rebound: Rebound, redis_url: str, receiver: HangingReceiver, start_worker: StartWorker
) -> None:
    worker = start_worker("-P", "threads")
    rebound.schedule_retry(receiver.url, b"v", id="order-7", base_delay=1)
    wait_until(lambda: receiver.posts, timeout=20, message=worker.tail)

    worker.signal(signal.SIGTERM)
    worker.wait_for_output("Warm shutdown", timeout=10)
    receiver.release.set()

    assert worker.wait(20) == 0
    assert receiver.posts == ["2"]
    assert receiver.answered == ["order-7"]
    assert left_in(redis_url) == 0


@pytest.mark.parametrize("ttl", ["3600", None])
def test_a_worker_removes_dead_letters_that_are_too_old_where_it_is_asked_to(
    rebound: Rebound, start_worker: StartWorker, ttl: str | None
) -> None:
    now_ms = time.time_ns() // 1_000_000
    letters = [DeadEntry("old", "r", b"x", now_ms - 7_200_000), DeadEntry("young", "r", b"x", now_ms)]
    with open_schedule(rebound.app, rebound.settings.queue) as schedule:
        schedule.keep_dead(letters)
        start_worker("-P", "threads", **({} if ttl is None else {"REBOUND_DEAD_LETTER_TTL": ttl}))
        if ttl is None:
            time.sleep(5)  # longer than until the first look
        else:
            wait_until(lambda: schedule.counts().dead == 1, timeout=30)
        kept = [letter.id for letter in schedule.dead().letters]
    assert kept == (["old", "young"] if ttl is None else ["young"])


def test_what_the_lost_children_of_a_stopped_worker_were_at_is_given_back(
    rebound: Rebound, redis_url: str, receiver: HangingReceiver, start_worker: StartWorker
) -> None:
    """A supervisor may send SIGTERM to all processes of a worker: the next worker need not wait for leases to run out,
    and no message counts a lost worker."""
    receiver.hanging = 99
    worker = start_worker("-P", "prefork", "-c", "2")
    rebound.schedule_retries([{"destination": receiver.url, "id": f"order-{n}", "delay": 0} for n in range(40)])
    wait_until(lambda: receiver.posts, timeout=20, message=worker.tail)

    os.killpg(worker.pid, signal.SIGTERM)
    assert worker.wait(20) == 0

    assert leased_in(redis_url) == 0, worker.tail()
    assert left_in(redis_url) == 40
    with Redis.from_url(redis_url) as redis:
        assert redis.hmget(KEYS.stats, "lost", "ran_out") == [None, None]
