"""Publishing to the schedule: while Redis is away, and under an id that is stored already."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from rebound_celery.errors import AlreadyStoredError
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.transport import keeping
from rebound_celery.schedule.worker.installation import install_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.scheduling import take
from tests.servers import RedisServer, consuming

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


KEEP = {"headers": {"rebound-keep": True}}


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
        close_redis_connections()


@pytest.fixture
def app(server: RedisServer) -> Iterator[Celery]:
    with Celery("publishing", broker=server.url, set_as_current=False, task_ignore_result=True) as app:
        install_schedule(app)
        yield app


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, QueueKeys("", "celery", (0, 3, 6, 9)))


@pytest.mark.parametrize("countdown", [None, 60])
def test_publishing_while_redis_is_away_fails_as_soon_as_with_stock_celery(countdown: float | None):
    """kombu gives up after six pauses of 0.2 to 1 s, in 3 s; and does not then begin again."""
    with Celery("away", broker="redis://127.0.0.1:1/0", set_as_current=False, task_ignore_result=True) as app:
        install_schedule(app)
        began = time.monotonic()
        with pytest.raises(OperationalError):
            app.send_task("t", countdown=countdown, retry_policy={"max_retries": 6})

    assert 2.5 < time.monotonic() - began < 4.8


def test_an_id_that_is_stored_again_replaces_the_earlier_message(app: Celery, store: Store):
    app.send_task("t", (1,), task_id="same", countdown=600)
    app.send_task("t", (2,), task_id="same", countdown=900)

    assert store.count() == 1
    assert store.stats()["replaced"] == 1


@pytest.mark.parametrize("is_running", [False, True])
def test_a_caller_can_refuse_to_replace_an_earlier_message(app: Celery, store: Store, is_running: bool):
    app.send_task("t", (1,), task_id="same", countdown=600)
    stored = store.get("same").stored
    if is_running:
        store.run_now("same")
        take(store)

    with pytest.raises(AlreadyStoredError, match="same"):
        app.send_task("t", (2,), task_id="same", countdown=900, **KEEP)

    assert store.get("same").stored == stored


def test_a_caller_whose_own_message_is_stored_already_hears_of_no_other(
    app: Celery, store: Store, monkeypatch: pytest.MonkeyPatch
):
    """The answer to the first try was lost, so kombu publishes once more."""
    store_new, times = keeping.store_new, iter(range(1))

    def losing_the_answer(*args: Any) -> None:
        store_new(*args)
        if next(times, None) is not None:
            raise ConnectionError("the answer is lost")

    monkeypatch.setattr(keeping, "store_new", losing_the_answer)

    app.send_task("t", (1,), task_id="same", countdown=600, **KEEP)

    assert store.stats() == {"stored": 1}


def test_the_wish_to_keep_is_not_stored_so_that_a_retry_can_replace_its_task(app: Celery, store: Store):
    app.send_task("t", (1,), task_id="now", **KEEP)
    app.send_task("t", (1,), task_id="later", countdown=600, **KEEP)
    store.run_now("later")
    with consuming(app) as consumer:
        consumer.take(2)

    assert sorted(consumer.ids) == ["later", "now"]
    assert not any("rebound-keep" in message.headers for message in consumer.taken)


def test_a_batch_keeps_what_is_stored_already(app: Celery, store: Store):
    app.send_task("t", (1,), task_id="same", countdown=600)
    stored = store.get("same").stored
    with app.producer_or_acquire() as producer, producer.batch():
        app.send_task("t", (2,), task_id="same", countdown=900, producer=producer, **KEEP)
        app.send_task("t", (2,), task_id="new", countdown=900, producer=producer, **KEEP)

    assert store.get("same").stored == stored
    assert store.count() == 2
