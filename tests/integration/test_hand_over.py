"""When a message cannot be given to the worker, no lease stays and no message is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery

from rebound_celery.schedule.port import LOSSES_HEADER
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.transport import celery_form as stored
from rebound_celery.schedule.worker.installation import install_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.scheduling import dead_entries
from tests.servers import consuming, send_due
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    with Celery("faults", broker=redis_url, set_as_current=False) as app:
        install_schedule(app, lambda: {"lease": 60, "max_losses": 3})
        yield app
        close_redis_connections()


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    with redis.Redis.from_url(redis_url) as client:
        yield Store(client, QueueKeys("", "celery", (0, 3, 6, 9)))


@pytest.mark.parametrize(
    ("error", "losses"),
    [(RuntimeError("can't start new thread"), 1), (redis.exceptions.ConnectionError("gone"), None)],
    ids=["a fault, counted", "a lost connection"],
)
def test_message_whose_hand_over_fails_comes_again(app: Celery, store: Store, error: Exception, losses: int | None):
    """Long before its lease of a minute is over."""
    sent = send_due(app, store, 0, 1, 2)
    errors = [error]

    def act(message: Any) -> None:
        if errors:
            raise errors.pop()

    with consuming(app, act) as consumer:
        consumer.take(4)
        wait_until(lambda: consumer.turn(0.05) or store.count() == 0)

    assert sorted(set(consumer.ids)) == sorted(sent)
    failed, *others = consumer.taken
    again = next(message for message in others if message.headers["id"] == failed.headers["id"])
    assert again.headers.get(LOSSES_HEADER) == losses
    assert dead_entries(store) == []


def test_message_that_cannot_be_read_for_now_comes_again_and_costs_no_other(
    app: Celery, store: Store, monkeypatch: pytest.MonkeyPatch
):
    """Too large for the memory that is left, say; those claimed with it, before and behind, are delivered."""
    before, large, behind = send_due(app, store, 0, 1, 2)
    decode, errors = stored.decode, [MemoryError()]

    def decode_or_fail(form: bytes) -> dict[str, Any]:
        message = decode(form)
        if message["headers"]["id"] == large and errors:
            raise errors.pop()
        return message

    monkeypatch.setattr(stored, "decode", decode_or_fail)
    with consuming(app) as consumer:
        consumer.take(2)
        assert sorted(consumer.ids) == sorted([before, behind])
        wait_until(lambda: consumer.turn(0.05) or store.count() == 1)
        store._client.zadd(store.keys.leased, {large: 1})  # its lease is over
        store._client.set(store.keys.next, 1)
        consumer.take(3)
        wait_until(lambda: consumer.turn(0.05) or store.count() == 0)

    assert consumer.ids[2] == large
    assert consumer.taken[2].headers.get(LOSSES_HEADER) == 1


def test_message_whose_hand_over_always_fails_is_dead_in_the_end(app: Celery, store: Store):
    bad, good = send_due(app, store, "bad", "good")

    def act(message: Any) -> None:
        if message.headers["id"] == bad:
            raise RuntimeError("this one never")

    with consuming(app, act) as consumer:
        wait_until(lambda: consumer.turn(0.05) or store.count() == 0, timeout=20)

    assert consumer.ids.count(good) == 1
    assert consumer.ids.count(bad) == 3
    assert [(letter.id, letter.reason) for letter in dead_entries(store)] == [(bad, "worker-lost")]
