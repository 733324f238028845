"""Flower lists dead letters under "Failed", with the reason and the last error as text."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.embedded import free_port
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from tests.acceptance.apps.worker import close_redis_connections
from tests.acceptance.crash_points.receiver import Receiver
from tests.processes import Process
from tests.waiting import wait_until

RunProcess = Callable[..., Process]

APP = ("-m", "celery", "-A", "tests.acceptance.apps.orders")


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    """The app of a process that only schedules, such as a web server."""
    yield Rebound(Celery("web", broker=redis_url, set_as_current=False))
    close_redis_connections()


@pytest.fixture
def worker(run_process: RunProcess, redis_url: str, kafka_brokers: str) -> Process:
    env = {"ORDERS_REDIS": redis_url, "REBOUND_KAFKA_BROKERS": kafka_brokers, "REBOUND_MAX_WORKER_LOSSES": "1"}
    worker = run_process(*APP, "worker", "--loglevel=INFO", "--concurrency=1", env=env)
    worker.wait_for_output(" ready.", timeout=60)
    return worker


@pytest.fixture
def ask(run_process: RunProcess, redis_url: str) -> Callable[[str], str]:
    """`ask(path)`: what Flower answers."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {"ORDERS_REDIS": redis_url, "FLOWER_UNAUTHENTICATED_API": "true"}
    flower = run_process(*APP, "flower", "--address=127.0.0.1", f"--port={port}", env=env)

    def read(path: str) -> str:
        with urllib.request.urlopen(url + path, timeout=10) as answer:
            return str(answer.read().decode())

    def is_up() -> bool:
        try:
            return bool(read("/healthcheck"))
        except urllib.error.URLError:
            return False

    wait_until(is_up, timeout=60, message=flower.tail)
    flower.wait_for_output("Connected to redis", timeout=30)
    return read


def given_up(**changes: Any) -> Message:
    """A message whose next failure is its last."""
    fields: dict[str, Any] = {
        "value": b"secret",
        "dead_destination": DEAD_SET,
        "attempt": 2,
        "policy": RetryPolicy(1, 1),
        **changes,
    }
    return Message(**fields)


def kill_child(worker: Process) -> None:
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)


def test_what_is_given_up_is_in_flowers_failed_tab_with_its_reason_and_error(
    rebound: Rebound, worker: Process, ask: Callable[[str], str], topic: str
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/hook"
    receiver = Receiver(hanging=1)
    try:
        rebound.store([(given_up(id="spent", destination=HttpAddress(nobody)), 0)])
        rebound.store([(given_up(id="rejected", destination=KafkaAddress(topic, partition=77)), 0)])
        wait_until(lambda: len(rebound.dead_set) == 2, timeout=30, message=worker.tail)
        rebound.store([(given_up(id="lost", destination=HttpAddress(receiver.url)), 0)])
        wait_until(lambda: receiver.posts, timeout=30, message=worker.tail)
        kill_child(worker)
        receiver.release.set()

        def failed() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(ask("/api/tasks?state=FAILURE"))
            return found if len(found) == 3 else {}

        tasks = wait_until(failed, timeout=30, interval=0.2, message=lambda: ask("/api/tasks"))
    finally:
        receiver.close()

    exceptions = {identity: task["exception"] for identity, task in tasks.items()}
    assert exceptions.keys() == {"spent:2", "rejected:2", "lost:2"}
    assert exceptions["spent:2"].startswith("retries-exhausted: rebound_celery.errors.AttemptFailedError: POST ")
    assert "refused" in exceptions["spent:2"]
    assert exceptions["rejected:2"].startswith("rejected: rebound_celery.errors.RejectedError: ")
    assert "no partition 77" in exceptions["rejected:2"]
    assert exceptions["lost:2"].startswith("worker-lost: billiard.exceptions.WorkerLostError: 1 worker was lost")
    page = ask("/task/spent:2")
    assert "FAILURE" in page
    assert "retries-exhausted: rebound_celery.errors.AttemptFailedError" in page
    assert "secret" not in page
