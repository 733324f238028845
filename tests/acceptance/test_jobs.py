"""Replays as jobs of real workers: workers that are killed, and commands that steer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from celery import Celery
from msgspec.structs import replace

from rebound_celery import Rebound
from rebound_celery.errors import UnreachableError
from rebound_celery.message import codec
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.message.headers import kafka_headers
from rebound_celery.schedule.port import DeadEntry, open_schedule
from rebound_celery.selection import Filter
from tests.acceptance.apps.worker import close_redis_connections
from tests.acceptance.test_dlq_commands import letter
from tests.processes import ROOT, Process
from tests.servers import RedisServer
from tests.waiting import wait_until

APP = ("-m", "celery", "-A", "tests.acceptance.apps.orders")
WORKER = (*APP, "worker", "-c", "2", "-l", "INFO")
COUNT = 2_000


@pytest.fixture
def environment(redis_url: str, kafka_brokers: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    more = {
        "ORDERS_REDIS": redis_url,
        "REBOUND_KAFKA_BROKERS": kafka_brokers,
        "REBOUND_LEASE": "3",
        # Four workers are killed, and on a busy machine all of them may hold the same messages.
        "REBOUND_MAX_WORKER_LOSSES": "10",
        "PYTHONPATH": str(ROOT),
    }
    return environment | more


@pytest.fixture
def rebound(redis_url: str, kafka_brokers: str) -> Iterator[Rebound]:
    rebound = Rebound(Celery("orders", broker=redis_url, set_as_current=False), kafka_brokers=kafka_brokers)
    yield rebound
    rebound.close()
    close_redis_connections()


def command(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *APP, "rebound", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def start(environment: dict[str, str], source: str, *options: str) -> str:
    done = command(environment, "dlq", "replay", "--source", source, "--all", "--job", "--json", *options)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["id"])


def in_order(records: list[Any]) -> dict[bytes, list[int]]:
    found: defaultdict[bytes, list[int]] = defaultdict(list)
    for record in records:
        found[record.key or b""].append(json.loads(record.value)["number"])
    return found


@pytest.mark.parametrize("where", ["topic", "redis"])
def test_a_job_whose_workers_are_killed_replays_each_letter_once_and_in_order(
    where: str,
    rebound: Rebound,
    environment: dict[str, str],
    make_topic: Callable[..., str],
    produce: Callable[..., Any],
    read_topic: Callable[..., list[Any]],
    run_process: Callable[..., Process],
) -> None:
    topic = make_topic(1)
    source = make_topic(3, f"{topic}-dlq") if where == "topic" else "redis"
    if where == "topic":
        letters = [letter(number, topic, KafkaAddress(source)) for number in range(COUNT)]
        produce(source, [(each.key, each.value, kafka_headers(each)) for each in letters])
    else:
        letters = [letter(number, topic, DEAD_SET) for number in range(COUNT)]
        with open_schedule(rebound.app, "rebound") as schedule:
            schedule.keep_dead(
                [
                    DeadEntry(each.task_id, "rejected", codec.encode(each), 1_700_000_000_000 + number)
                    for number, each in enumerate(letters)
                ]
            )
    job = start(environment, source)
    workers = [run_process(*WORKER, "-n", f"w{number}@%h", env=environment) for number in range(2)]

    for number in range(4):
        before = rebound.jobs.get(job).replayed
        wait_until(lambda before=before: rebound.jobs.get(job).replayed > before, timeout=60, interval=0.005)
        # It may be in the midst of a step, or of deliveries.
        workers[number % 2].kill()
        workers[number % 2] = run_process(*WORKER, "-n", f"w{number % 2}@%h", env=environment)
    wait_until(
        lambda: rebound.jobs.get(job).state == "done", timeout=240, message=lambda: str(rebound.jobs.get(job).to_dict())
    )
    wait_until(
        lambda: rebound.pending.counts().waiting + rebound.pending.counts().leased == 0,
        timeout=180,
        message=lambda: "\n".join([str(rebound.pending.stats()), *(worker.tail(20) for worker in workers)]),
    )

    done = rebound.jobs.get(job)
    assert (done.replayed, done.parked, done.left, done.matched) == (COUNT, 0, 0, COUNT)
    with open_schedule(rebound.app, "rebound") as schedule:
        assert schedule.stats()["revived"] == COUNT
    # Each was stored once. A worker that is killed between Kafka's answer and its own note of it delivers again.
    by_key = in_order(read_topic(topic, COUNT, timeout=60))
    assert sorted({number for numbers in by_key.values() for number in numbers}) == list(range(COUNT))
    for key, numbers in by_key.items():
        firsts = list(dict.fromkeys(numbers))
        if key:
            assert all(one < next_ for one, next_ in pairwise(firsts)), key


def keep_hooks(rebound: Rebound, url: str, count: int) -> None:
    """Keep dead letters for a URL."""
    hooks = [replace(letter(number, "unused", DEAD_SET), destination=HttpAddress(url)) for number in range(count)]
    with open_schedule(rebound.app, "rebound") as schedule:
        schedule.keep_dead(
            [DeadEntry(each.task_id, "rejected", codec.encode(each), 1_700_000_000_000) for each in hooks]
        )


class _Receiver(BaseHTTPRequestHandler):
    """Answers at once, and keeps when each hook came."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.came.append((self.path, time.monotonic()))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def receiver() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    server.came = []  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_job_continues_after_redis_was_killed_and_started_again(
    environment: dict[str, str], receiver: Any, run_process: Callable[..., Process], tmp_path: Path
) -> None:
    with RedisServer(aof_dir=tmp_path) as server:
        rebound = Rebound(Celery("orders", broker=server.url, set_as_current=False))
        keep_hooks(rebound, f"http://127.0.0.1:{receiver.server_port}/replayed", 600)
        environment |= {"ORDERS_REDIS": server.url}
        worker = run_process(*APP, "worker", "-c", "1", "-l", "INFO", env=environment)
        worker.wait_for_output(" ready.", timeout=60)
        job = start(environment, "redis", "--rate", "100")
        wait_until(lambda: rebound.jobs.get(job).replayed > 100, timeout=60)

        server.kill()
        time.sleep(2)
        with pytest.raises(UnreachableError):
            rebound.jobs.get(job)
        server.start()

        wait_until(lambda: rebound.jobs.get(job).state == "done", timeout=90, message=lambda: worker.tail(30))
        wait_until(lambda: rebound.pending.counts().waiting + rebound.pending.counts().leased == 0, timeout=60)
        done = rebound.jobs.get(job)
        assert (done.replayed, done.left, rebound.dead_letters.count()) == (600, 0, 0)
        with open_schedule(rebound.app, "rebound") as schedule:
            assert schedule.stats()["revived"] == 600
        rebound.close()
    # What was posted when Redis was killed is posted again.
    assert 600 <= len(receiver.came) <= 700


def test_commands_steer_a_job_within_two_seconds_and_deliveries_go_on(
    rebound: Rebound, environment: dict[str, str], receiver: Any, run_process: Callable[..., Process]
) -> None:
    url = f"http://127.0.0.1:{receiver.server_port}"
    keep_hooks(rebound, f"{url}/replayed", 2_000)
    worker = run_process(*APP, "worker", "-c", "1", "-l", "INFO", env=environment)
    worker.wait_for_output(" ready.", timeout=60)
    job = start(environment, "redis", "--rate", "40")
    wait_until(lambda: rebound.jobs.get(job).replayed > 20, timeout=30)

    # One process delivers and makes the steps.
    for number in range(5):
        begun = time.monotonic()
        rebound.schedule_retry(f"{url}/other-{number}", b"1", delay=0)
        wait_until(lambda number=number: any(path == f"/other-{number}" for path, _ in receiver.came), timeout=10)
        assert time.monotonic() - begun < 2

    paused = command(environment, "jobs", "pause", job)
    assert paused.returncode == 0, paused.stderr
    assert f"Job {job} is paused" in paused.stdout
    left = rebound.dead_letters.count()
    time.sleep(1.5)
    assert rebound.dead_letters.count() == left > 0
    listed = command(environment, "jobs", "ls", "--json")
    assert [json.loads(line)["state"] for line in listed.stdout.splitlines()] == ["paused"]
    assert command(environment, "jobs", "resume", job).returncode == 0
    wait_until(lambda: rebound.dead_letters.count() < left, timeout=10)
    aborted = json.loads(command(environment, "jobs", "abort", job, "--json").stdout)
    assert (aborted["state"], aborted["replayed"]) == ("aborted", 2_000 - rebound.dead_letters.count())
    wait_until(lambda: rebound.pending.counts().waiting + rebound.pending.counts().leased == 0, timeout=20)
    assert sum(path == "/replayed" for path, _ in receiver.came) == aborted["replayed"]
    again = command(environment, "jobs", "resume", job)
    assert (again.returncode, "it is aborted" in again.stderr, "Traceback" in again.stderr) == (4, True, False)
    assert len(list(rebound.dead_letters.iterate(Filter(), "redis"))) == 2_000 - aborted["replayed"]
