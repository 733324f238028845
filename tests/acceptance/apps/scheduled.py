"""A Celery app with the schedule alone, without Kafka. Its tasks write their calls to Redis."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from typing import Any

import redis
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

from rebound_celery.schedule.worker.installation import install_schedule

URL = os.environ["TEST_REDIS_URL"]

app = Celery("scheduled", broker=URL, backend=URL)
app.conf.broker_connection_retry_on_startup = True
app.conf.task_acks_late = os.environ.get("TEST_ACKS_LATE") == "1"
app.conf.worker_prefetch_multiplier = int(os.environ.get("TEST_PREFETCH", "4"))
app.conf.broker_transport_options = {"global_keyprefix": os.environ.get("TEST_PREFIX", "")}
app.conf.update(json.loads(os.environ.get("TEST_CONF", "{}")))
if os.environ.get("TEST_STOCK") != "1":
    install_schedule(
        app,
        lambda: {
            "lease": float(os.environ.get("TEST_LEASE", "30")),
            "health_file": os.environ.get("TEST_HEALTH_FILE"),
            "leased": tuple(filter(None, os.environ.get("TEST_LEASED", "").split(","))),
        },
    )

open_files = int(os.environ.get("TEST_OPEN_FILES", "0"))
if open_files:
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(open_files)]

log = redis.Redis.from_url(URL)


def say(*words: Any) -> None:
    """Tell Redis, however often it takes: a restart of Redis is what some tests are about."""
    while True:
        try:
            log.rpush("said", " ".join(map(str, words)))
        except redis.RedisError:
            time.sleep(0.1)
        else:
            return


@app.task(bind=True)
def note(self: Any, number: int, due: float) -> str | None:
    """Tell how many milliseconds after its time it ran."""
    say(number, round((time.time() - due) * 1000))
    return self.request.eta


@app.task(bind=True)
def work(self: Any, number: int, seconds: float) -> None:
    say("begun", number)
    time.sleep(seconds)
    say("done", number)


@app.task
def compute(number: int, seconds: float) -> None:
    """Never let go of the thread, as code that neither gevent nor eventlet reaches."""
    say("begun", number)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    say("done", number)


@app.task
def place(number: int, seconds: float) -> None:
    """Tell in which process it runs."""
    say("begun", number, os.getpid())
    time.sleep(seconds)
    say("done", number, os.getpid())


@app.task(bind=True)
def publish(self: Any) -> None:
    """Publish, with the app that runs it, what is to wait."""
    self.app.send_task("t", countdown=600, queue="elsewhere")


@app.task(soft_time_limit=1)
def soft(number: int) -> None:
    say("begun", number)
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        say("soft", number)


@app.task(time_limit=1)
def hard(number: int) -> None:
    say("begun", number)
    time.sleep(30)


@app.task(bind=True, max_retries=3)
def twice(self: Any, began: float) -> None:
    say(self.request.id, self.request.retries, round(time.time() - began, 3))
    if self.request.retries < 2:
        raise self.retry(countdown=1)


@app.task(acks_late=True, reject_on_worker_lost=True)
def die(number: int) -> None:
    """Kill the process that runs it, each time."""
    say("begun", number)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def total(numbers: list[int]) -> int:
    return sum(numbers)
