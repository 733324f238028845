"""The watchdog notices a worker that no longer claims, reports it once, and repairs it. It leaves a busy worker alone.

The watchdog of these workers checks twice a second and acts after 2.5 s (see `apps.faulty`).
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.acceptance.apps.worker import close_redis_connections
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.processes import Process

POOLS = {
    "prefork": ("-P", "prefork", "-c", "2"),
    "threads": ("-P", "threads", "-c", "2"),
    "solo": ("-P", "solo"),
    "gevent": ("-P", "gevent", "-c", "4"),
    "eventlet": ("-P", "eventlet", "-c", "4"),
}

Worker = "Callable[..., Process]"


@pytest.fixture
def said(redis_url: str) -> Iterator[Callable[[], list[str]]]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield lambda: client.lrange("said", 0, -1)  # type: ignore[return-value]


@pytest.fixture
def health_file(tmp_path: Path) -> Path:
    return tmp_path / "worker.health"


@pytest.fixture
def start(run_process: Callable[..., Process], redis_url: str, health_file: Path) -> Worker:
    def run(fault: str, *options: str, **environment: str) -> Process:
        environment = {"TEST_REDIS_URL": redis_url, "TEST_HEALTH_FILE": str(health_file), "FAULT": fault, **environment}
        worker = run_process(
            *("-m", "celery", "-A", "tests.acceptance.apps.faulty", "worker", "-l", "INFO", *options), env=environment
        )
        worker.wait_for_output(" ready.", timeout=60)
        return worker

    return run


@pytest.fixture
def send(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`send(task, *arguments, countdown=0)` of the workers' app."""
    monkeypatch.setenv("TEST_REDIS_URL", redis_url)
    from celery import Celery

    from rebound_celery import install_schedule

    app = Celery("web", broker=redis_url, set_as_current=False)
    install_schedule(app)

    def publish(task: str, *arguments: Any, countdown: float = 0) -> None:
        app.send_task(f"tests.acceptance.apps.scheduled.{task}", arguments, countdown=countdown)

    yield publish
    app.close()
    close_redis_connections()


def told(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("pool", ["prefork", "gevent"])
def test_worker_whose_claims_are_never_due_again_is_set_going(
    pool: str, start: Worker, send: Any, said: Any, health_file: Path
):
    """A countdown of more than three seconds wakes no worker: it has to look by itself."""
    worker = start("asleep", *POOLS[pool])
    send("work", 1, 0, countdown=5)

    wait_until(lambda: "done 1" in said(), timeout=30, message=worker.tail)

    assert worker.output.count("the claims are set going again") == 1
    worker.wait_for_output("due messages are claimed again")
    wait_until(lambda: told(health_file)["state"] == "ok")
    assert worker.stop() == 0
    assert not health_file.exists()


@pytest.mark.parametrize("pool", POOLS)
def test_worker_that_claims_nothing_over_its_channel_is_connected_anew(
    pool: str, start: Worker, send: Any, said: Any, health_file: Path
):
    worker = start("first_channel", *POOLS[pool])
    send("work", 1, 0, countdown=3)

    wait_until(lambda: "done 1" in said(), timeout=40, message=worker.tail)

    assert worker.output.count("the claims are set going again") == 1
    assert worker.output.count("the connection is made anew") == 1
    worker.wait_for_output("due messages are claimed again")
    assert worker.stop() == 0


def test_worker_that_nothing_helps_is_reported_once_and_lets_its_file_grow_old(
    start: Worker, send: Any, health_file: Path
):
    worker = start("for_good", *POOLS["threads"])
    send("work", 1, 0, countdown=1)

    wait_until(lambda: told(health_file)["state"] == "stalled", timeout=40, message=worker.tail)
    time_of_change = health_file.stat().st_mtime
    wait_until(lambda: time.time() - time_of_change > 5, timeout=10)

    assert told(health_file)["detail"].startswith("celery: nothing was claimed")
    assert health_file.stat().st_mtime == time_of_change
    assert worker.output.count("restart this worker") == 1
    assert worker.output.count("the connection is made anew") == 1
    worker.stop()


def test_leases_that_were_forgotten_are_given_back(start: Worker, send: Any, said: Any):
    worker = start("leak", *POOLS["threads"])
    send("work", 1, 0, countdown=1)

    wait_until(lambda: "done 1" in said(), timeout=40, message=worker.tail)

    assert worker.output.count("the connection is made anew") == 1
    worker.stop()


def test_claim_that_meets_an_unknown_error_is_made_again(start: Worker, send: Any, said: Any):
    """Without any watchdog: its timer is set again, whatever happened."""
    worker = start("raises", *POOLS["threads"])
    send("work", 1, 0, countdown=1)

    wait_until(lambda: "done 1" in said(), timeout=20, message=worker.tail)

    assert "the claims are set going again" not in worker.output
    assert worker.output.count("RuntimeError: what nobody thought of") == 1
    worker.stop()


@pytest.mark.parametrize("pool", ["prefork", "solo", "gevent"])
def test_busy_worker_is_well(pool: str, start: Worker, send: Any, said: Any, health_file: Path):
    """It has no room, or (solo) its loop waits for the task: for three times the watchdog's patience."""
    worker = start("none", *POOLS[pool], TEST_PREFETCH="1")
    for number in range(12):
        send("work", number, 9, countdown=1)

    wait_until(lambda: any(line.startswith("done") for line in said()), timeout=40, message=worker.tail)

    assert told(health_file)["state"] == "ok"
    assert time.time() - health_file.stat().st_mtime < 3
    assert "nothing was claimed" not in worker.output
    worker.kill()


def test_worker_that_consumes_nothing_or_whose_redis_is_away_is_not_reported(
    start: Worker, run_process: Any, tmp_path: Path, health_file: Path
):
    from celery import Celery

    from tests.servers import RedisServer

    with RedisServer(aof_dir=tmp_path / "aof") as server:
        worker = start("none", *POOLS["threads"], TEST_REDIS_URL=server.url)
        server.kill()
        wait_until(lambda: told(health_file)["state"] == "waiting", timeout=20, message=worker.tail)
        away_at = time.time()
        wait_until(lambda: time.time() - away_at > 7, timeout=10)
        assert time.time() - health_file.stat().st_mtime < 3
        server.start()
        wait_until(lambda: told(health_file)["state"] == "ok", timeout=30, message=worker.tail)

        with Celery("web", broker=server.url, set_as_current=False) as app:
            wait_until(lambda: app.control.cancel_consumer("celery", reply=True), timeout=20)
        paused_at = time.time()
        wait_until(lambda: time.time() - paused_at > 7, timeout=10)
        assert told(health_file)["state"] == "ok"
        assert "nothing was claimed" not in worker.output
        worker.stop()
    close_redis_connections()
