"""Copies of an app publish with the schedule as the app itself does: whoever made them, in whatever process."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

from rebound_celery import Rebound
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.worker.installation import install_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STEPS = (0, 3, 6, 9)

#: A process that knows nothing but the pickle.
OTHER_PROCESS = """
import pickle, sys
app = pickle.load(sys.stdin.buffer)
app.send_task("t", countdown=600)
app.send_task("t", queue="leased")
copied = pickle.loads(pickle.dumps(app))
copied.send_task("t", countdown=600)
"""


@pytest.fixture(params=["options", "function", "rebound"])
def app(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Celery]:
    app = Celery("copied", broker=redis_url, set_as_current=False, task_ignore_result=True)
    if request.param == "options":
        install_schedule(app, {"leased": ("leased",), "lease": 7.0})
    elif request.param == "function":
        install_schedule(app, lambda: {"leased": ("leased",), "lease": 7.0})
    else:
        Rebound(app, queue="leased", lease=7.0)
    with app:
        yield app
        close_redis_connections()


def count(redis_url: str, queue: str) -> int:
    with redis.Redis.from_url(redis_url) as client:
        return Store(client, QueueKeys("", queue, STEPS)).count()


@pytest.mark.parametrize("make", [lambda app: pickle.loads(pickle.dumps(app)), copy.copy, copy.deepcopy])
def test_a_copy_in_the_same_process_has_the_app_s_own_options(app: Celery, make: Callable[[Any], Any], redis_url: str):
    made = make(make(app))
    assert made is not app

    with made.connection_for_write() as mine, app.connection_for_write() as its:
        options, original = mine.default_channel.options, its.default_channel.options
    made.send_task("t", countdown=600)
    made.close()

    assert options.lease_s == 7.0
    assert options.leased == original.leased
    assert count(redis_url, "celery") == 1


def test_a_copy_in_another_process_publishes_with_the_schedule(app: Celery, redis_url: str):
    subprocess.run([sys.executable, "-c", OTHER_PROCESS], input=pickle.dumps(app), check=True, timeout=60)

    assert count(redis_url, "celery") == 2
    assert count(redis_url, "leased") == 1
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("celery") == client.llen("leased") == 0


def test_a_fork_of_a_fork_publishes_with_the_schedule(app: Celery, redis_url: str):
    def fork(then: Callable[[], object]) -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                then()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0

    fork(lambda: (app.send_task("t", countdown=600), fork(lambda: app.send_task("t", countdown=600))))

    assert count(redis_url, "celery") == 2


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_tasks_of_a_pool_s_processes_publish_with_the_schedule(
    run_process: Callable[..., Any], redis_url: str, method: str
):
    conf = {"worker_pool_start_method": method, "imports": ["tests.acceptance.apps.scheduled"]}
    env = {"TEST_REDIS_URL": redis_url, "TEST_CONF": json.dumps(conf)}
    run_process("-m", "celery", "-A", "tests.acceptance.apps.scheduled", "worker", "-P", "prefork", "-c", "1", env=env)
    app = Celery("scheduled", broker=redis_url, set_as_current=False)
    with app:
        app.send_task("tests.acceptance.apps.scheduled.publish")
        wait_until(lambda: count(redis_url, "elsewhere") == 1, timeout=40)
        close_redis_connections()
