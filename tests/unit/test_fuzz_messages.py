"""Any data from Redis or Kafka is read as a whole message, or refused with the one error for damaged messages."""

from __future__ import annotations

import contextlib
import json
from types import SimpleNamespace
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rebound_celery.consumer.reading import read_safely
from rebound_celery.destinations.http_headers import request_headers
from rebound_celery.errors import UnknownVersionError, WireFormatError
from rebound_celery.message import Message, Origin, PastAttempt, Record, codec
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.message.headers import OWN_HEADERS, kafka_headers, read_record
from rebound_celery.policy import MAX_RETRIES_LIMIT, Failure, RetryPolicy
from rebound_celery.schedule.transport import celery_form as stored
from rebound_celery.schedule.transport import eta
from tests.fuzzing import DEEP, QUICK, changed, damaged, jsons, scalars, stored_form, texts
from tests.unit.test_policy_options import policies

WHOLE = Message(
    id="m-1",
    value=b"\xff\x00",
    key=b"k",
    headers=(("a", b"1"), ("a", None), ("b", b"\xff")),
    destination=KafkaAddress("orders", "k:9092", 3),
    dead_destination=HttpAddress("https://example.org/dead?x=1"),
    attempt=2,
    policy=RetryPolicy(3, 5.0),
    reason="rejected",
    failure=Failure("ValueError", "no", "stack"),
    group="g",
    origin=Origin("orders", 0, 7, 1_700_000_000_000),
    first_failed_at=1_700_000_000_001,
    content_type="text/plain",
    source="s",
    client_id="c",
    history=(PastAttempt(1, 1_700_000_000_001, "ValueError: no", "consumer g@h"),),
)

identities = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
users_headers = st.lists(
    st.tuples(texts.filter(lambda name: name not in OWN_HEADERS), st.none() | st.binary(max_size=20)), max_size=4
).map(tuple)
addresses = st.sampled_from([DEAD_SET, KafkaAddress("t"), WHOLE.destination, HttpAddress("http://h/p")])
messages = st.builds(
    Message,
    id=identities,
    value=st.none() | st.binary(max_size=40),
    key=st.none() | st.binary(max_size=20),
    headers=users_headers,
    destination=addresses,
    dead_destination=addresses,
    attempt=st.integers(1, 1 + MAX_RETRIES_LIMIT),
    policy=policies(),
    reason=st.none() | st.sampled_from(["rejected", "worker-lost"]),
    failure=st.none() | st.builds(Failure, texts, texts, texts),
    group=st.none() | identities,
    origin=st.none() | st.builds(Origin, identities, st.integers(0, 99), st.integers(0, 2**60), st.integers(0, 2**42)),
    first_failed_at=st.none() | st.integers(0, 2**42),
    content_type=st.none() | texts,
    source=st.none() | texts,
    client_id=st.none() | identities,
)


@QUICK
@given(messages)
def test_message_is_read_as_it_was_written(message: Message) -> None:
    assert stored_and_read(message) == message


def stored_and_read(message: Message) -> Message:
    return codec.decode(message.id, codec.encode(message))[0]


def can_be_used(message: Message) -> None:
    """Whatever is read must not stop a worker later."""
    assert stored_and_read(message) == message
    assert str(message)
    assert str(message.task_id)
    assert all(isinstance(name, str) and isinstance(value, bytes | None) for name, value in kafka_headers(message))
    assert all(isinstance(text, str) for text in request_headers(message).values())
    assert hash(message.target)
    codec.encode(message.dead("worker-lost"))


packed_values = st.recursive(
    scalars | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | scalars, inner, max_size=4),
    max_leaves=8,
)


def as_stored(fields: Any) -> bytes:
    """The stored form of any value at all, with what this version would store as an extension."""
    try:
        return b"\x10" + msgspec.msgpack.encode(fields, enc_hook=str)
    except (UnicodeEncodeError, OverflowError, TypeError):
        return b"\x10"


WHOLE_FIELDS = msgspec.msgpack.decode(codec.pack(WHOLE, {"tries": 3, "headers": {"a": [1]}}))


@st.composite
def changed_fields(draw: st.DrawFn) -> list[Any]:
    """The packed form of a message in which some fields are left out or are something else."""
    fields = list(WHOLE_FIELDS)
    for index in draw(st.sets(st.integers(0, len(fields) - 1), min_size=1, max_size=3)):
        fields[index] = draw(packed_values)
    if draw(st.booleans()):
        fields[-1] = draw(changed({"route": WHOLE_FIELDS[-1]}))
    return fields[: draw(st.integers(0, len(fields)))] if draw(st.booleans()) else fields


@settings(QUICK, max_examples=1_000)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(lambda data: b"\x10" + data),
        st.binary(max_size=60).map(lambda data: b"\x11" + data),
        damaged(codec.encode(WHOLE)),
        damaged(b"\x10" + codec.pack(WHOLE, {"tries": 3})),
        changed_fields().map(as_stored),
        packed_values.map(as_stored),
    )
)
@example(b"\x10" + b"\x91" * 100_000)
@example(b"\x10" + b"\x81\xa1a" * 100_000)
@example(b"\x10" + b"\x81\xa1x" * 100_000 + b"\xc0")
@example(b"\x10\xdd\xff\xff\xff\xff")
@example(b"\x11\x60\xff\xff")
def test_stored_message_is_a_message_or_one_of_two_errors(stored: bytes) -> None:
    with contextlib.suppress(WireFormatError, UnknownVersionError):
        message, context = codec.decode("m", stored)
        can_be_used(message)
        assert codec.decode("m", codec.encode(message, context)) == (message, context)


def consumed(headers: Any, key: bytes | None = None) -> Any:
    return SimpleNamespace(topic="t", partition=1, offset=2, timestamp=3, key=key, value=b"v", headers=headers)


own_headers = st.tuples(
    st.sampled_from(sorted(OWN_HEADERS)),
    st.none() | st.binary(max_size=30) | st.integers().map(lambda n: str(n).encode()),
)
any_headers = st.lists(own_headers | st.tuples(texts, st.none() | st.binary(max_size=10)), max_size=8)


@QUICK
@given(any_headers)
def test_any_headers_make_a_record_with_a_possible_attempt(headers: Any) -> None:
    record = read_record(consumed(headers), "g")

    assert 1 <= record.attempt <= 1 + MAX_RETRIES_LIMIT
    assert [pair for pair in record.headers if pair[0] not in OWN_HEADERS] == [
        pair for pair in headers if pair[0] not in OWN_HEADERS
    ]
    assert isinstance(record.id, str)
    assert record == read_safely(consumed(headers), "g")


@QUICK
@given(messages)
def test_record_of_a_message_is_read_as_what_was_sent(message: Message) -> None:
    record = read_record(consumed(kafka_headers(message), message.key), "other")

    assert (record.id, record.attempt, record.group) == (message.id, message.attempt, message.group)
    assert record.headers == message.headers
    assert record.first_failed_at == message.first_failed_at
    if message.origin is not None:
        assert record.origin == message.origin


@QUICK
@given(any_headers)
def test_record_with_any_headers_can_fail_and_come_back(headers: Any) -> None:
    """From headers to the message that is stored, and what a worker reads of it."""
    from rebound_celery.config import Settings
    from rebound_celery.consumer import ConsumerConfig
    from rebound_celery.consumer.failure_handler import FailureHandler
    from rebound_celery.consumer.partition_tracker import Job, Partition, PartitionTracker

    record: Record = read_safely(consumed(headers), "g")
    handler = FailureHandler(ConsumerConfig(group="g", topics="t", handler=print), Settings())
    failed = handler.decide(Job(record, PartitionTracker(Partition("t", 1))), ValueError("no"), 1_000)

    assert stored_and_read(failed.message) == failed.message


KOMBU = {
    "body": "W10=",
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"task": "t", "id": "i", "eta": "2026-01-01T00:00:00+00:00", "retries": 0},
    "properties": {"body_encoding": "base64", "delivery_tag": "d", "priority": 0, "delivery_info": {}},
}


@QUICK
@given(
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(lambda data: stored.VERSION + data),
        damaged(stored.encode(KOMBU)),
        jsons.map(lambda value: stored_form(json.dumps(value))),
        changed(KOMBU).map(lambda value: stored_form(json.dumps(value))),
    )
)
@example(stored_form(DEEP))
@example(stored_form("1" * 5_000))
def test_stored_form_is_a_message_or_one_of_two_errors(data: bytes) -> None:
    with contextlib.suppress(ValueError, UnknownVersionError):
        message = stored.decode(data)
        assert isinstance(message["properties"], dict)


@QUICK
@given(texts, st.dictionaries(texts, jsons, max_size=3))
def test_what_is_stored_is_read_again(body: str, headers: Any) -> None:
    message = {"body": body, "headers": headers, "properties": {"priority": 3}}

    read = stored.decode(stored.encode(message))

    assert json.dumps(read) == json.dumps(message)


@QUICK
@given(st.one_of(jsons, changed(KOMBU), scalars.map(lambda value: {"headers": {**KOMBU["headers"], "eta": value}})))  # type: ignore[dict-item]
@example({"headers": {"task": "t", "id": "i", "eta": "0001-01-01T00:00:00+23:59"}})
@example({"headers": {"task": "t", "id": "i", "eta": "9999-12-31T23:59:59-23:59"}})
def test_eta_is_milliseconds_or_none(message: Any) -> None:
    if isinstance(message, dict):
        assert isinstance(eta.due_ms_of(message), int | None)
