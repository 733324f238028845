"""An acknowledgement is in Redis when it returns; only a worker gathers them, and sends the first at once."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.transport import installed
from rebound_celery.schedule.transport import leases as leases_module
from rebound_celery.schedule.worker.installation import install_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.servers import RedisServer, consuming, send_due
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kombu import Message

#: A process that ends as if it were killed, as soon as it has done something about its message.
SETTLES = """
import os, sys
from celery import Celery
from kombu import Consumer, Queue
from rebound_celery.schedule.worker.installation import install_schedule
app = Celery("settling", broker=sys.argv[1])
install_schedule(app, {"lease": 2.0})
def take(message):
    getattr(message, sys.argv[3])()
    os._exit(0)
with app.connection_for_read() as connection:
    if sys.argv[2] == "get":
        queue = connection.SimpleQueue("celery")
        take(queue.get(timeout=20))
    with Consumer(connection, [Queue("celery")], on_message=take, accept=["json"]):
        connection.drain_events(timeout=20)
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
        close_redis_connections()


@pytest.fixture
def store(server: RedisServer) -> Iterator[Store]:
    with redis.Redis.from_url(server.url) as client:
        yield Store(client, QueueKeys("", "celery", (0, 3, 6, 9)))


@pytest.fixture
def app(server: RedisServer) -> Iterator[Celery]:
    with Celery("settling", broker=server.url, set_as_current=False, task_ignore_result=True) as app:
        install_schedule(app, {"lease": 2.0})
        yield app


@pytest.mark.parametrize("way", ["get", "consume"])
@pytest.mark.parametrize(("what", "left"), [("ack", 0), ("reject", 0), ("requeue", 1)])
def test_a_process_that_ends_at_once_has_settled_its_message(app: Celery, store: Store, way: str, what: str, left: int):
    send_due(app, store, 1)

    subprocess.run([sys.executable, "-c", SETTLES, app.conf.broker_url, way, what], check=True, timeout=60)

    assert store.counts().leased == 0
    assert store.counts().waiting == left


def test_a_message_that_was_given_back_is_found_at_once(app: Celery, store: Store):
    send_due(app, store, 1)
    with app.connection_for_read() as connection, connection.channel() as channel:
        message = channel.basic_get("celery")
        message = channel.message_to_python(message)
        message.requeue()
        again = channel.basic_get("celery")

    assert again is not None
    assert store.stats()["released"] >= 1


def test_a_message_that_is_got_without_acknowledgement_is_gone_at_once(app: Celery, store: Store):
    send_due(app, store, 1)
    with app.connection_for_read() as connection, connection.channel() as channel:
        assert channel.basic_get("celery", no_ack=True) is not None
        assert store.count() == 0


def test_who_acknowledges_while_redis_is_away_hears_of_it(server: RedisServer, app: Celery, store: Store):
    send_due(app, store, 1)
    with app.connection_for_read() as connection, connection.channel() as channel:
        message = channel.message_to_python(channel.basic_get("celery"))
        server.kill()
        with pytest.raises(redis.ConnectionError):
            message.ack()
        server.start()


class _Owner:
    """A worker that consumes over every channel."""

    def owns(self, channel: Any) -> bool:
        return True

    def load(self, channel: Any) -> installed.Load | None:
        return None

    def tasks_to_finish(self) -> set[str]:
        return set()


def test_a_worker_sends_the_first_end_at_once_and_gathers_the_next(
    app: Celery, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(installed, "worker", _Owner())
    monkeypatch.setattr(leases_module, "_GATHER_S", 3.0)
    first, second, third = send_due(app, store, 1, 2, 3)
    taken: dict[str, Message] = {}

    def hold(message: Message) -> None:
        taken[message.headers["id"]] = message
        message._state = "ACK"  # the consumer leaves it alone

    def acknowledge(identity: str) -> None:
        taken[identity]._state = "RECEIVED"
        taken[identity].ack()

    with consuming(app, hold) as consumer:
        consumer.take(3)
        acknowledge(first)
        wait_until(lambda: store.count() == 2, timeout=1.5)
        acknowledge(second)
        acknowledge(third)
        wait_until(lambda: store.count() == 0, timeout=6)

    assert store.stats()["done"] == 3
