"""Claims between a worker and Redis: a lost answer, a Redis that hangs, and stored forms of other owners."""

from __future__ import annotations

import errno
import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from kombu import Exchange
from kombu.common import Broadcast
from redis.exceptions import ConnectionError as RedisConnectionError

from rebound_celery.errors import UnknownVersionError, UnreachableError
from rebound_celery.schedule.port import (
    LOSSES_HEADER,
    Claimed,
    Entry,
    MessageLeases,
    ScheduleOptions,
    message_leases,
    open_schedule,
)
from rebound_celery.schedule.store import script_runner
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.transport import channel as channel_module
from rebound_celery.schedule.transport import claimed as claimed_module
from rebound_celery.schedule.transport import claimer as claimer_module
from rebound_celery.schedule.worker.installation import install_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.scheduling import dead_entries, everything, now_ms
from tests.servers import RedisServer, consuming, send_due
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kombu.message import Message

STEPS = (0, 3, 6, 9)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
        close_redis_connections()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as connection:
        yield connection


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, QueueKeys("", "celery", STEPS))


@pytest.fixture
def app(server: RedisServer) -> Iterator[Celery]:
    with Celery("claims", broker=server.url, set_as_current=False) as app:
        install_schedule(app, ScheduleOptions(lease_s=60))
        yield app


def lost_once(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[Any], bool] = bool) -> None:
    """Let the first answer of a script that has something to say be lost, after it has run."""
    original, left = getattr(Store, name), [1]

    def losing(self: Store, *args: Any, **kwargs: Any) -> Any:
        answer = original(self, *args, **kwargs)
        if left and happens(answer):
            left.clear()
            raise RedisConnectionError("the answer was lost")
        return answer

    monkeypatch.setattr(Store, name, losing)


@pytest.mark.parametrize("script", ["claim", "confirm"])
def test_messages_whose_claim_was_answered_in_vain_come_soon_and_once(
    app: Celery, store: Store, monkeypatch: pytest.MonkeyPatch, script: str
):
    sent = send_due(app, store, 0, 1, 2)
    lost_once(monkeypatch, script, lambda answer: answer is True or bool(getattr(answer, "messages", ())))

    began = time.monotonic()
    with consuming(app) as consumer:
        consumer.take(3)
        wait_until(lambda: store.count() == 0)

    assert time.monotonic() - began < 4
    assert sorted(consumer.ids) == sorted(sent)
    assert not any(LOSSES_HEADER in message.headers for message in consumer.taken)
    assert store.stats()["claimed"] == 3


def test_nothing_is_late_nor_lost_when_redis_stands_still(
    server: RedisServer, app: Celery, store: Store, monkeypatch: pytest.MonkeyPatch
):
    """Claims whose callers have given up run all the same once it goes on."""
    monkeypatch.setattr(channel_module, "_SOCKET_TIMEOUT_S", 0.3)
    sent = [app.send_task("t", (number,), countdown=1).id for number in range(40)]
    with consuming(app, prefetch=4) as consumer:
        consumer.turn(0.1)
        for _ in range(2):
            os.kill(server.pid, signal.SIGSTOP)
            try:
                consumer.turn(1.5)
            finally:
                os.kill(server.pid, signal.SIGCONT)
        began = time.monotonic()
        consumer.take(40)
        assert time.monotonic() - began < 3
        wait_until(lambda: store.count() == 0)

    assert sorted(consumer.ids) == sorted(sent)
    assert not any(LOSSES_HEADER in message.headers for message in consumer.taken)


def test_broadcast_with_a_countdown_does_not_wait_in_a_queue_of_one_worker(app: Celery, client: redis.Redis):
    """Nothing would ever claim it there, once that worker is gone. Celery holds it, as it does without rebound."""
    exchange = Exchange("all", type="fanout")
    app.conf.task_queues = [Broadcast("all", routing_key="all")]
    got: list[Any] = []
    with app.connection_for_read() as connection:
        queue = Broadcast("all", routing_key="all")(connection.default_channel)
        queue.declare()
        queue.consume("tag", got.append)
        with suppress(TimeoutError):  # it subscribes now
            connection.drain_events(timeout=0.5)
        app.send_task("t", countdown=60, exchange=exchange, routing_key="all", declare=[exchange])
        deadline = time.monotonic() + 10
        while not got and time.monotonic() < deadline:
            with suppress(TimeoutError):
                connection.drain_events(timeout=1)

    assert got[0].headers["eta"]
    assert not client.keys("rebound:*:messages")


class Form:
    """The form of a queue's owner: the version, and the name of a task."""

    def task_ids_of(self, id: str) -> list[str]:  # noqa: A002
        return [f"{id}:{number}" for number in range(3)]

    def open(self, claimed: Claimed) -> dict[str, Any]:
        if claimed.stored[:1] != b"\x11":
            raise UnknownVersionError(f"version {claimed.stored[:1]!r}")
        task = claimed.stored[1:].decode()
        if task == "damaged":
            raise ValueError("it is damaged")
        if task == "unopened" and not claimed.losses:
            raise OSError(errno.EMFILE, "Too many open files")
        return {
            "body": claimed.stored,
            "content-type": "application/x-test",
            "content-encoding": "binary",
            "headers": {"task": task, "id": claimed.id, "lane": claimed.lane},
            "properties": {"priority": claimed.priority, "delivery_info": {}, "body_encoding": None},
        }


@pytest.fixture
def owned(server: RedisServer) -> Iterator[Celery]:
    """An app whose default queue is leased, with a form of its own."""
    with Celery("owned", broker=server.url, set_as_current=False) as app:
        install_schedule(app, lambda: ScheduleOptions(leased={"celery": Form()}, lease_s=60))
        yield app


def test_leased_queue_has_messages_of_its_owners_form_and_of_celerys(owned: Celery, store: Store):
    with open_schedule(owned, "celery") as schedule:
        forms = {"mine": b"\x11shop.charge", "bad": b"\x11damaged", "later": b"\x12what a later version wrote"}
        schedule.enqueue(Entry(name, now_ms(), form, "kafka:orders", 3) for name, form in forms.items())
        celerys = owned.send_task("t").id

        with consuming(owned) as consumer:
            consumer.take(2)
            wait_until(lambda: consumer.turn(0.05) or schedule.counts().leased == 0)

        by_id = {message.headers["id"]: message for message in consumer.taken}
        assert by_id.keys() == {"mine", celerys}
        assert (by_id["mine"].body, by_id["mine"].headers["lane"]) == (forms["mine"], "kafka:orders")
        assert [(letter.id, letter.reason) for letter in dead_entries(store)] == [("bad", "unreadable")]
        assert [waiting.stored for waiting in everything(store)] == [forms["later"]]


def test_a_message_that_cannot_be_read_for_want_of_a_file_descriptor_is_no_loss_of_a_worker(
    owned: Celery, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimed_module, "_UNOPENED_PAUSE_MS", 60_000)
    with open_schedule(owned, "celery") as schedule:
        schedule.enqueue([Entry("m", now_ms(), b"\x11unopened")])

    with consuming(owned) as consumer:
        wait_until(lambda: consumer.turn(0.05) or store.stats().get("released") == 1)

    (waiting,) = everything(store)
    assert waiting.losses == 0
    assert waiting.due_ms > now_ms() + 30_000, "it is not read again at once"


def test_many_messages_are_settled_at_once_and_others_are_told_apart(owned: Celery, store: Store):
    with open_schedule(owned, "celery") as schedule:
        schedule.enqueue([Entry(f"{number}", now_ms(), b"\x11t") for number in range(5)])
    held: list[Message] = []

    def keep(message: Message) -> None:
        held.append(message)
        message._state = "ACK"

    with consuming(owned, keep) as consumer:
        consumer.take(5)
        leases = message_leases(held[0])
        assert isinstance(leases, MessageLeases)
        store.cancel(held[4].headers["id"], leased=True)

        tags = [message.delivery_tag for message in held]
        assert leases.let_go(tags) == {tags[4]}
        assert leases.end([*tags[:3], "another"]) == {"another"}
        leases.count_loss(tags[3])
        consumer.connection.default_channel.qos.reject(tags[3], requeue=True)
        wait_until(lambda: [waiting.losses for waiting in everything(store)] == [1])


def test_schedule_of_a_broker_that_is_not_redis_cannot_be_opened():
    with Celery("other", broker="memory://", set_as_current=False) as app:
        install_schedule(app)
        with pytest.raises(UnreachableError, match="not Redis"), open_schedule(app, "celery"):
            pass


def test_a_message_is_claimed_although_redis_has_lost_the_time_at_which_it_is_due(
    app: Celery, store: Store, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis may evict single keys where somebody lets it. The message itself is still there."""
    monkeypatch.setattr(claimer_module, "_UNTIMED_S", 1.0)
    with consuming(app) as consumer:
        consumer.turn(0.5)
        app.send_task("t", (1,), countdown=script_runner.MAX_SLEEP_MS / 1000 + 2)
        assert client.delete(store.keys.next) == 1

        consumer.take(1)
