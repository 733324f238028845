"""Copies of an app publish with the schedule, and deliver, as the app itself does: in whatever process they are."""

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

from rebound_celery import Rebound, RetryRequest, registry
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.worker.installation import install_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.integration.test_http_answers import Receiver
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


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


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
    assert options.leased.keys() == original.leased.keys()
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


@pytest.mark.parametrize("make", [lambda app: pickle.loads(pickle.dumps(app)), copy.copy, copy.deepcopy])
def test_a_copy_in_the_same_process_has_a_rebound_of_its_own(make: Callable[[Any], Any], redis_url: str):
    app = Celery("copied", broker=redis_url, set_as_current=False, task_ignore_result=True)
    rebound = Rebound(app, queue="own", max_retries=7)
    copied = make(make(app))

    its = registry.find(copied)
    its.schedule(RetryRequest(destination="http://nobody.invalid/", value=b"value", delay=600))

    assert its is not rebound
    assert (its.settings.queue, its.settings.max_retries) == ("own", 7)
    assert "rebound.deliver" in copied.tasks
    assert "own" in copied.amqp.queues
    assert count(redis_url, "own") == 1
    copied.close()
    close_redis_connections()


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
def test_a_copy_in_the_same_process_has_the_consumers_that_were_declared(make: Callable[[Any], Any], redis_url: str):
    app = Celery("copied", broker=redis_url, set_as_current=False)
    rebound = Rebound(app)
    rebound.consumer("orders", group="shop")(lambda _record: None)
    copied = make(make(app)).rebound

    copied.consumer("payments", group="shop")(lambda record: record)
    rebound.consumer("returns", group="shop")(lambda record: record)

    assert [config.topics for config in copied.consumers] == [("orders",), ("payments",)]
    assert [config.topics for config in rebound.consumers] == [("orders",), ("returns",)]


def test_a_pickled_app_may_have_handlers_that_cannot_be_pickled(redis_url: str):
    app = Celery("copied", broker=redis_url, set_as_current=False)
    Rebound(app, max_retries=7).consumer("orders", group="shop")(lambda _record: None)

    copied = pickle.loads(pickle.dumps(app)).rebound

    assert copied.settings.max_retries == 7
    assert copied.consumers == ()


@pytest.mark.parametrize("imports", [[], ["tests.acceptance.apps.orders"]])
def test_spawned_children_deliver(
    run_process: Callable[..., Any], redis_url: str, receiver: Receiver, imports: list[str]
):
    """Whether the child knows the app by its pickle alone, or imports its module too."""
    conf = {"worker_pool_start_method": "spawn", "imports": imports}
    env = {"ORDERS_REDIS": redis_url, "ORDERS_CONF": json.dumps(conf)}
    worker = run_process(
        "-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "-P", "prefork", "-c", "1", env=env
    )
    app = Celery("orders", broker=redis_url, set_as_current=False)
    Rebound(app).schedule_retry(receiver.url, b"value", delay=0)

    wait_until(lambda: count(redis_url, "rebound") == 0, timeout=40, message=worker.tail)
    assert receiver.requests == 1
    assert "NotRegistered" not in worker.output
    close_redis_connections()
