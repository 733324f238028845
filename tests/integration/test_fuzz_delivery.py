"""Whatever a delivery task or the dead set hold: it is delivered, or kept; no batch fails for one message's sake."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery import Rebound
from rebound_celery.delivery.batch import End
from rebound_celery.destinations.dead_set import DeadSet
from rebound_celery.message import Message
from tests.acceptance.apps.worker import close_redis_connections
from tests.fuzzing import DEEP, SLOW, changed, jsons, scalars, texts
from tests.integration.test_fuzz_schedule import WIRE

if TYPE_CHECKING:
    from collections.abc import Iterator

LETTERS = "{rebound}.dead"

wires = st.one_of(st.just(WIRE), changed(WIRE), jsons)
bodies = st.one_of(
    wires.map(lambda wire: json.dumps([[wire], {}, {}])),
    wires.map(lambda wire: json.dumps([[wire], {}, {}]).encode("utf-16")),
    jsons.map(json.dumps),
    texts,
    st.binary(max_size=20),
    st.sampled_from([DEEP, "9" * 5_000, "", b"", None, 5, b"\x80\x04K\x01."]),
)
types = (
    st.sampled_from(
        [
            "application/json",
            "application/x-python-serialize",
            "application/data",
            "text/plain",
            "application/x-yaml",
            "",
        ]
    )
    | st.none()
)
encodings = st.sampled_from(["utf-8", "utf-16", "binary", "no-such", "", None, "rot13"])
received = st.tuples(bodies, types, encodings, st.text(st.characters(), max_size=5), st.integers(0, 9), st.just(3))


def request_of(body: Any, content_type: Any, content_encoding: Any, name: str) -> Any:
    """What `give_up` looks at of a worker's request."""
    message = SimpleNamespace(body=body, content_type=content_type, content_encoding=content_encoding)
    return SimpleNamespace(message=message, id=name)


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    app = Celery("fuzz", broker=redis_url, set_as_current=False)
    yield Rebound(app, http_connect_timeout=1, http_timeout=1, kafka_timeout=0.5)
    close_redis_connections()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def numbered(batch: list[Any]) -> list[Any]:
    """Each with a task id of its own."""
    return [(body, kind, coding, f"{name}-{n}", *rest) for n, (body, kind, coding, name, *rest) in enumerate(batch)]


def test_each_of_a_batch_has_its_own_end_and_none_is_lost(rebound: Rebound, client: redis.Redis):
    task = rebound.app.tasks["rebound.deliver"]

    @SLOW
    @given(st.lists(received, min_size=1, max_size=6))
    def fuzz(batch: list[Any]) -> None:
        client.flushdb()
        batch = numbered(batch)

        results = task.run_batch(batch)

        assert len(results) == len(batch)
        assert {end for end, _ in results} <= {End.DONE, End.AGAIN}
        kept = client.hkeys(LETTERS)
        for (_, _, _, task_id, _, _), (end, text) in zip(batch, results, strict=True):
            if text == "kept in the dead set: unreadable":
                assert f"unreadable:{task_id}".encode("utf-8", "backslashreplace") in kept
            elif end == End.DONE:
                assert text.startswith("dead-set ")

    fuzz()


@pytest.mark.parametrize("reason", [None, "rejected"])
def test_message_whose_workers_were_lost_is_given_up_whatever_it_holds(
    rebound: Rebound, client: redis.Redis, reason: str | None
):
    task = rebound.app.tasks["rebound.deliver"]
    whole = {**WIRE} if reason is None else {**WIRE, "reason": reason}

    @SLOW
    @given(
        st.one_of(st.just(json.dumps([[whole], {}, {}])), bodies),
        types,
        encodings,
        st.text(st.characters(), min_size=1, max_size=5),
    )
    def fuzz(body: Any, kind: Any, coding: Any, name: str) -> None:
        client.flushdb()

        assert task.give_up(request_of(body, kind, coding, name))

        waiting = client.hlen("rebound:{rebound}:messages")
        assert client.hlen(LETTERS) + waiting == 1

    fuzz()


def test_message_that_cannot_be_kept_elsewhere_is_not_given_up(rebound: Rebound, monkeypatch: pytest.MonkeyPatch):
    """It would be acknowledged, and settled once Redis is back."""
    task = rebound.app.tasks["rebound.deliver"]

    def away(*_: Any) -> None:
        raise redis.exceptions.ConnectionError("gone")

    monkeypatch.setattr(DeadSet, "_write", away)
    for wire in (Message.from_wire(WIRE).dead("rejected").to_wire(), 5):
        assert task.give_up(request_of(json.dumps([[wire], {}, {}]), "application/json", "utf-8", "t")) is False


def test_dead_set_with_anything_in_it_gives_what_can_be_read(rebound: Rebound, client: redis.Redis):
    @SLOW
    @given(
        st.dictionaries(
            st.binary(min_size=1, max_size=9),
            st.one_of(
                st.binary(max_size=30),
                jsons.map(lambda value: json.dumps(value).encode()),
                wires.map(lambda wire: json.dumps({"died_at": 1, "message": wire}).encode()),
                st.sampled_from([DEEP.encode(), b"9" * 5_000]),
            ),
            max_size=6,
        )
    )
    def fuzz(letters: dict[bytes, bytes]) -> None:
        client.flushdb()
        rebound.dead_set.send([Message.from_wire({**WIRE, "id": "whole-one"}).dead("rejected")])
        for name, letter in letters.items():
            client.hset(LETTERS, name, letter)  # type: ignore[arg-type]
            client.zadd(f"{LETTERS}.index", {name: time.time()})  # type: ignore[dict-item]
        client.zadd(f"{LETTERS}.index", {"gone": 1})

        assert "whole-one" in [message.id for message in rebound.dead_set]
        assert len(rebound.dead_set) == 1 + len(letters)

    fuzz()


def test_headers_that_are_no_numbers_count_as_none():
    from rebound_celery.delivery.job import priority_of, retries_of

    @SLOW
    @given(scalars | jsons)
    def fuzz(value: Any) -> None:
        request = SimpleNamespace(request_dict={"retries": value}, delivery_info={"priority": value})
        assert retries_of(request) >= 0
        assert priority_of(request) >= 0

    fuzz()
