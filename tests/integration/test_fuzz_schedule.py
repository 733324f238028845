"""The schedule may hold any data: it is delivered, kept aside or left alone. Sound messages beside it are delivered."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st

from rebound_celery import Rebound
from rebound_celery.errors import UnknownVersionError
from rebound_celery.message import Message, codec
from rebound_celery.message.address import DEAD_SET, HttpAddress
from rebound_celery.policy import RetryPolicy
from rebound_celery.schedule.port import Claimed, Entry, ScheduleOptions
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.transport import celery_form as stored
from rebound_celery.schedule.transport import forms
from rebound_celery.schedule.worker import announcements
from rebound_celery.schedule.worker.installation import install_schedule
from rebound_celery.schedule.worker.shown import list_scheduled
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.fuzzing import DEEP, SLOW, changed, damaged, jsons, stored_form, texts
from tests.scheduling import dead_entries, everything, raw
from tests.servers import consuming
from tests.unit.test_fuzz_messages import KOMBU
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STEPS = (0, 3, 6, 9)

entries = st.one_of(
    st.binary(max_size=40),
    damaged(stored.encode(KOMBU)),
    jsons.map(lambda value: stored_form(json.dumps(value))),
    changed(KOMBU).map(lambda value: stored_form(json.dumps(value))),
    st.sampled_from([stored_form(DEEP), stored_form("1" * 5_000), b"\x11later", b""]),
)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client
    close_redis_connections()


def put(store: Store, forms: Sequence[bytes], names: Iterator[int]) -> list[str]:
    """Let them be due; returns their ids."""
    ids = [f"e-{next(names)}" for _ in forms]
    due_ms = time.time_ns() // 1_000_000 - 10
    store.enqueue([Entry(identity, due_ms, form, "", 3) for identity, form in zip(ids, forms, strict=True)])
    return ids


def left_alone(store: Store) -> set[str]:
    """Those of another version: to be looked at again in minutes."""
    soon_ms = time.time_ns() // 1_000_000 + 60_000
    return {waiting.id for waiting in everything(store) if waiting.due_ms > soon_ms and not waiting.leased}


def test_any_entry_is_delivered_set_aside_or_left_alone(redis_url: str, client: redis.Redis):
    app = Celery("fuzz", broker=redis_url, set_as_current=False)
    install_schedule(app, lambda: {"lease": 60})
    store, names = Store(client, QueueKeys("", "celery", STEPS)), itertools.count()
    put_in: set[str] = set()

    with app, consuming(app) as consumer:

        @SLOW
        @given(st.lists(entries, min_size=1, max_size=8), st.integers(0, 2))
        def fuzz(forms: list[bytes], losses: int) -> None:
            ids = put(store, forms, names)
            put_in.update(ids)
            # As if so many of their leases had run out.
            whole = {identity: raw(form, rank=3, losses=losses) for identity, form in zip(ids, forms, strict=True)}
            client.hset(store.keys.messages, mapping=whole)
            good = app.send_task("t").id  # it wakes the consumer too

            wait_until(
                lambda: consumer.turn(0.01) or (good in consumer.ids and store.count() == len(left_alone(store)))
            )

        fuzz()

        dead = {letter.id for letter in dead_entries(store)}
        left = left_alone(store)
        assert dead | left <= put_in
        assert len(dead) + len(left) + len(consumer.taken) >= len(put_in)
        assert all(store.get(identity).stored[:1] != stored.VERSION for identity in left)


def test_any_entry_can_be_listed_shown_and_revoked(redis_url: str, client: redis.Redis):
    app = Celery("fuzz", broker=redis_url, set_as_current=False)
    install_schedule(app)
    store, names = Store(client, QueueKeys("", "celery", STEPS)), itertools.count()

    with app:

        @SLOW
        @given(
            st.lists(entries, min_size=1, max_size=5),
            st.one_of(st.integers(-(2**53), 2**53), st.sampled_from([0, -1, 2**53, 9_999_999_999_999_999])),
        )
        def fuzz(forms: list[bytes], due_ms: int) -> None:
            store.purge()
            ids = put(store, forms, names)
            client.zadd(store.keys.waiting("3"), dict.fromkeys(ids, due_ms))

            listed = list_scheduled(app, ["celery"])

            assert {entry["request"]["id"] for entry in listed} == set(ids)
            json.dumps(listed, default=repr)
            assert all(store.get(identity) for identity in ids)
            app.control.revoke(ids)
            assert store.count() == 0

        fuzz()


def test_end_of_any_entry_can_be_told(redis_url: str):
    app = Celery("fuzz", broker=redis_url, backend="cache+memory://", set_as_current=False)
    with app:

        @SLOW
        @given(entries)
        def fuzz(form: bytes) -> None:
            with contextlib.suppress(UnknownVersionError, *forms.DAMAGE):
                message = forms.open_stored(ScheduleOptions(), "celery", Claimed("i", form, "", 0, 3))
                announcements.revoked(app, message)
                announcements.worker_lost(app, message, 3)

        fuzz()
    close_redis_connections()


URL = "http://127.0.0.1:1/"
STORED = codec.encode(
    Message(
        id="m", value=b"v", destination=HttpAddress(URL), dead_destination=DEAD_SET, attempt=1, policy=RetryPolicy(0, 1)
    )
)
ARGUMENT = base64.b64encode(STORED).decode()
TASK = {
    "body": "",
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {
        "lang": "py",
        "task": "rebound.deliver",
        "id": "t",
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": "t",
        "parent_id": None,
        "argsrepr": "a",
        "kwargsrepr": "{}",
        "origin": "o",
        "ignore_result": False,
        "rebound-slow": True,
    },
    "properties": {
        "correlation_id": "t",
        "reply_to": "",
        "delivery_mode": 2,
        "priority": 3,
        "delivery_info": {"exchange": "", "routing_key": "rebound"},
        "body_encoding": None,
    },
}


def with_body(task: Any, body: Any, number: int) -> bytes:
    """A delivery task; what it and its message are known by is made their own, where it can be."""
    if isinstance(task, dict):
        headers = task.get("headers")
        if isinstance(headers, dict) and isinstance(headers.get("id"), str):
            headers["id"] += f"-{number}"
        if task.get("body") == "":
            task["body"] = body
    return stored_form(json.dumps(task))


def body_of(argument: Any) -> str:
    return json.dumps([[argument], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])


def test_worker_drops_nothing_of_rebound_s_own_queue_and_lives(
    redis_url: str, client: redis.Redis, caplog: pytest.LogCaptureFixture
):
    """Tasks with damaged headers, tasks with damaged bodies, and anything at all, in one queue with whole ones."""
    app = Celery("fuzz", broker=redis_url, set_as_current=False)
    rebound = Rebound(app, http_connect_timeout=1, http_timeout=1, outage_delay=3600, outage_max_delay=3600)
    store, names = Store(client, QueueKeys("", "rebound", STEPS)), itertools.count()
    numbers = itertools.count()
    put_in: list[str] = []

    def anything() -> Any:
        """A message of Celery's own form, as somebody may send it; or what `schedule_retry` stores, damaged."""
        celerys = st.one_of(
            changed(TASK).map(lambda task: (task, body_of(ARGUMENT))),
            jsons.map(lambda argument: (json.loads(json.dumps(TASK)), body_of(argument))),
            st.one_of(texts, jsons.map(json.dumps), st.just(DEEP), st.just("9" * 5_000)).map(
                lambda body: (json.loads(json.dumps(TASK)), body)
            ),
            jsons.map(lambda task: (task, "")),
        )
        return st.one_of(
            celerys.map(lambda pair: with_body(*pair, next(numbers))),
            st.just(STORED),
            damaged(STORED).filter(lambda form: form[:1] == STORED[:1]),
        )

    with running_worker(app):

        @settings(SLOW, max_examples=25)
        @given(st.lists(anything(), min_size=8, max_size=12))
        def fuzz(forms: list[bytes]) -> None:
            before = len(rebound.dead_set)
            put_in.extend(put(store, forms, names))
            good = f"good-{next(numbers)}"
            rebound.schedule_retry(URL, "v", id=good, max_retries=0)

            wait_until(
                lambda: len(rebound.dead_set) > before and store.count() == len(left_alone(store)),
                timeout=20,
                message=lambda: f"{everything(store)} {caplog.text[-3000:]}",
            )
            assert good in [letter.id for letter in rebound.dead_set]

        fuzz()

    kept = len(rebound.dead_set) + len(left_alone(store))
    assert kept == len(put_in) + 25
