"""A delivery task or the dead set may hold any data: it is delivered or kept, and no batch fails for one message."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.delivery.form import STORED_TYPE
from rebound_celery.delivery.job import Received, priority_of, retries_of
from rebound_celery.delivery.result import End
from rebound_celery.destinations.dead_set import DeadSetDestination
from rebound_celery.message import codec
from rebound_celery.message.address import DEAD_SET, HttpAddress
from rebound_celery.schedule.port import DeadEntry, open_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.fuzzing import DEEP, SLOW, damaged, jsons, scalars, texts

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = "celery@here"

#: It is a dead letter of the dead set, so that delivering it needs no other server.
MESSAGE = Message(
    id="m",
    value=b"v",
    destination=HttpAddress("http://127.0.0.1:1/"),
    dead_destination=DEAD_SET,
    attempt=2,
    policy=RetryPolicy(3, 5),
    reason="rejected",
)
STORED = codec.encode(MESSAGE, {"tries": 1, "headers": {"a": "b"}})

stored = st.one_of(
    st.just(STORED),
    damaged(STORED),
    st.binary(max_size=40),
    st.sampled_from([b"\x11", b"\x10", b"\x10\x80", b"\x00", codec.encode(MESSAGE, {"tries": "many"})]),
)
arguments = stored.map(lambda form: base64.b64encode(form).decode())
bodies = st.one_of(
    stored,
    arguments.map(lambda argument: json.dumps([[argument], {}, {}])),
    arguments.map(lambda argument: json.dumps([[argument], {}, {}]).encode("utf-16")),
    jsons.map(json.dumps),
    texts,
    st.binary(max_size=20),
    st.sampled_from([DEEP, "9" * 5_000, "", b"", None, 5, b"\x80\x04K\x01."]),
)
types = st.sampled_from([STORED_TYPE, "application/json", "application/x-python-serialize", "text/plain", "", None])
encodings = st.sampled_from(["utf-8", "utf-16", "binary", "no-such", "", None, "rot13"])
received = st.builds(
    Received, bodies, types, encodings, st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(0, 9)
)


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    app = Celery("fuzz", broker=redis_url, set_as_current=False)
    yield Rebound(app, http_connect_timeout=1, http_timeout=1, kafka_timeout=0.5)
    close_redis_connections()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def counts(rebound: Rebound) -> tuple[int, int]:
    """How many messages wait, and how many are dead letters."""
    with open_schedule(rebound.app, "rebound") as schedule:
        found = schedule.counts()
    return found.waiting, found.dead


def test_each_of_a_batch_has_its_own_end_and_none_is_lost(rebound: Rebound, client: redis.Redis):
    task = rebound.app.tasks["rebound.deliver"]

    @SLOW
    @given(st.lists(received, min_size=1, max_size=6))
    def fuzz(batch: list[Received]) -> None:
        client.flushdb()
        batch = [one._replace(task_id=f"{one.task_id}-{number}:2") for number, one in enumerate(batch)]

        results = task.run_batch(batch, WORKER)

        assert len(results) == len(batch)
        ends = [result.end for result in results]
        assert set(ends) <= {End.DEAD, End.AGAIN}
        assert counts(rebound) == (ends.count(End.AGAIN), ends.count(End.DEAD))

    fuzz()


@pytest.mark.parametrize("reason", [None, "rejected"])
def test_message_whose_workers_were_lost_is_given_up_whatever_it_holds(
    rebound: Rebound, client: redis.Redis, reason: str | None
):
    task = rebound.app.tasks["rebound.deliver"]
    whole = codec.encode(MESSAGE if reason else Message(**{**_fields(MESSAGE), "reason": None}))

    @SLOW
    @given(st.one_of(st.just(Received(whole, STORED_TYPE, "binary", "m:2", 3)), received))
    def fuzz(one: Received) -> None:
        client.flushdb()

        (result,) = task.give_up(one._replace(task_id="m:2"), 3, WORKER)

        assert result.end in (End.DEAD, End.AGAIN)
        assert sum(counts(rebound)) == 1

    fuzz()


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}


def test_message_that_cannot_be_kept_elsewhere_is_not_given_up(rebound: Rebound, monkeypatch: pytest.MonkeyPatch):
    """It would be acknowledged, and settled once Redis is back."""
    task = rebound.app.tasks["rebound.deliver"]

    def away(*_: Any) -> None:
        raise redis.exceptions.ConnectionError("gone")

    monkeypatch.setattr(DeadSetDestination, "_keep", away)
    monkeypatch.setattr(rebound._publisher, "open", away)
    for form in (STORED, b"\x11damaged"):
        assert task.give_up(Received(form, STORED_TYPE, "binary", "m:2", 3), 3, WORKER)[0].end == End.BACK


def test_dead_set_with_anything_in_it_gives_what_can_be_read(rebound: Rebound, client: redis.Redis):
    @SLOW
    @given(
        st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9), stored, max_size=6)
    )
    def fuzz(letters: dict[str, bytes]) -> None:
        client.flushdb()
        with open_schedule(rebound.app, "rebound") as schedule:
            schedule.keep_dead([DeadEntry("whole-one:dead", "rejected", STORED)])
            schedule.keep_dead([DeadEntry(f"other-{name}", "any", letter) for name, letter in letters.items()])

        assert "whole-one" in [message.id for message in rebound.dead_set]
        assert len(rebound.dead_set) == 1 + len(letters)

    fuzz()


def test_headers_that_are_no_numbers_count_as_none():
    @SLOW
    @given(scalars | jsons)
    def fuzz(value: Any) -> None:
        request = SimpleNamespace(request_dict={"retries": value}, delivery_info={"priority": value})
        assert retries_of(request) >= 0
        assert priority_of(request) >= 0

    fuzz()
