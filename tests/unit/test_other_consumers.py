"""Failed records of consumers that are not rebound's: what is read of them, and what is stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import aiokafka
import confluent_kafka
import pytest
from kafka.consumer.fetcher import ConsumerRecord

from rebound_celery import (
    DeadLetter,
    Drop,
    ErrorRule,
    InvalidSettingError,
    Message,
    NotStoredError,
    Record,
    RetryAfter,
    RetryPolicy,
    Settings,
    handle_failure,
    handle_failure_async,
)
from rebound_celery.message import Origin
from rebound_celery.message.address import KafkaAddress
from rebound_celery.message.headers import kafka_headers
from rebound_celery.other_consumers import FailureHandling, read_record

NOW_MS = 1_700_000_000_000
HEADERS = [("h", b"1"), ("null", None), ("rebound-attempt", b"2"), ("rebound-id", b"one")]


class Rebound(FailureHandling):
    """The part of Rebound that `FailureHandling` needs, with a store in memory."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(**settings)
        self.clock = SimpleNamespace(now_ms=lambda: NOW_MS)
        self.stored: list[tuple[Message, int]] = []
        self.error: Exception | None = None

    def store(self, retries: Sequence[tuple[Message, int]]) -> None:
        if self.error is not None:
            raise self.error
        self.stored.extend(retries)


def kafka_python(headers: Any = HEADERS, value: Any = b"v") -> Any:
    fields = dict.fromkeys(ConsumerRecord._fields)
    fields |= {"topic": "orders", "partition": 3, "offset": 812, "timestamp": 5, "key": b"k", "value": value}
    return ConsumerRecord(**{**fields, "headers": headers})


def aio(headers: Any = HEADERS, value: Any = b"v") -> Any:
    return aiokafka.ConsumerRecord(
        topic="orders",
        partition=3,
        offset=812,
        timestamp=5,
        timestamp_type=0,
        key=b"k",
        value=value,
        checksum=None,
        serialized_key_size=1,
        serialized_value_size=1,
        headers=tuple(headers),
    )


class ConfluentMessage:
    """What confluent-kafka's Message answers; only librdkafka can make a real one. It is tested with Kafka too."""

    def __init__(self, headers: Any = HEADERS, value: Any = b"v", error: Any = None) -> None:
        self._headers, self._value, self._error = headers, value, error

    def topic(self) -> str:
        return "orders"

    def partition(self) -> int:
        return 3

    def offset(self) -> int:
        return 812

    def timestamp(self) -> tuple[int, int]:
        return confluent_kafka.TIMESTAMP_CREATE_TIME, 5

    def key(self) -> bytes:
        return b"k"

    def value(self) -> Any:
        return self._value

    def headers(self) -> Any:
        return self._headers or None

    def error(self) -> Any:
        return self._error


def fields(headers: Any = HEADERS, value: Any = b"v") -> dict[str, Any]:
    return {
        "topic": "orders",
        "partition": 3,
        "offset": 812,
        "timestamp": 5,
        "key": b"k",
        "value": value,
        "headers": headers,
    }


def faststream(headers: Any = HEADERS, value: Any = b"v") -> Any:
    return SimpleNamespace(raw_message=aio(headers, value), body="decoded")


FORMS = [kafka_python, aio, ConfluentMessage, fields, faststream]


@pytest.mark.parametrize("form", FORMS)
def test_a_record_of_every_client_is_read_alike(form: Any) -> None:
    record = read_record(form())

    assert record == Record(
        topic="orders",
        partition=3,
        offset=812,
        timestamp=5,
        key=b"k",
        value=b"v",
        headers=(("h", b"1"), ("null", None)),
        id="one",
        origin=Origin("orders", 3, 812, 5),
        attempt=2,
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_record_without_headers_and_value_is_a_first_attempt(form: Any) -> None:
    record = read_record(form([], None), "billing")

    assert (record.attempt, record.value, record.headers) == (1, None, ())
    assert record.id == read_record(kafka_python([]), "billing").id, "the id follows from its place"


def test_a_record_without_a_place_gets_an_id_of_its_own() -> None:
    given = {"topic": "orders", "value": {"n": 1}, "key": 42, "headers": {"h": "1"}}

    first, second = read_record(given), read_record(given)

    assert (first.value, first.key, first.headers) == (b'{"n":1}', b"42", (("h", b"1"),))
    assert first.id != second.id
    assert read_record({**given, "id": "own", "attempt": 3}).attempt == 3
    assert read_record({**given, "id": "own"}).id == "own"


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (None, "record"),
        (b"bytes", "record"),
        ([kafka_python()], "record"),
        (ConfluentMessage(error="_PARTITION_EOF"), "record"),
        (kafka_python(value={"decoded": 1}), "record.value"),
        ({}, "record"),
        ({"topic": "no topic"}, "record.topic"),
        ({"topic": "orders", "offset": 1}, "record"),
        ({"topic": "orders", "offset": 1, "partition": -1}, "record.partition"),
        ({"topic": "orders", "attempt": 0}, "record.attempt"),
        ({"topic": "orders", "attempt": True}, "record.attempt"),
        ({"topic": "orders", "key": object()}, "key"),
        ({"topic": "orders", "value": object()}, "value"),
        ({"topic": "orders", "headers": 5}, "headers"),
        ({"topic": "orders", "valeu": b""}, "record['valeu']"),
    ],
)
def test_what_is_no_record_is_refused_and_nothing_is_stored(record: Any, field: str) -> None:
    rebound = Rebound()

    with pytest.raises(InvalidSettingError) as refused:
        rebound.handle_failure(record, ValueError())

    assert str(refused.value).startswith(f"{field}=")
    assert rebound.stored == []


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"group": ""}, "group"),
        ({"group": 5}, "group"),
        ({"policy": 5}, "policy"),
        ({"policy": {"max_retries": -1}}, "policy"),
        ({"dead_letter_topic": "orders"}, "dead_letter_topic"),
        ({"dead_letter_topic": "a b"}, "destination topic"),
        ({"retry_topic": ""}, "destination topic"),
        ({"brokers": "a:b:c"}, "brokers"),
    ],
)
def test_a_wrong_option_is_refused_and_nothing_is_stored(options: Any, field: str) -> None:
    rebound = Rebound()

    with pytest.raises(InvalidSettingError, match=f"^{field}"):
        rebound.handle_failure(kafka_python(), ValueError(), **options)
    with pytest.raises(TypeError, match="handle_failure has no option 'max_retries'; its options are group, policy"):
        rebound.handle_failure(kafka_python(), ValueError(), max_retries=3)  # type: ignore[call-arg]
    with pytest.raises(InvalidSettingError, match="error="):
        rebound.handle_failure(kafka_python(), None)  # type: ignore[arg-type]

    assert rebound.stored == []


def test_a_failed_record_waits_for_its_next_attempt(caplog: pytest.LogCaptureFixture) -> None:
    rebound = Rebound()
    caplog.set_level(logging.INFO, "rebound_celery")

    handled = rebound.handle_failure(kafka_python(), ValueError("no price"), group="billing")

    ((message, due_ms),) = rebound.stored
    assert (handled.then, handled.attempt, handled.due_ms) == ("retry", 3, NOW_MS + 10_000)
    assert (handled.destination, handled.id, due_ms) == ("kafka:orders", "one", NOW_MS + 10_000)
    assert (message.destination, message.dead_destination) == (KafkaAddress("orders"), KafkaAddress("orders-dlq"))
    assert (message.value, message.key, message.headers) == (b"v", b"k", (("h", b"1"), ("null", None)))
    assert (message.group, message.origin) == ("billing", Origin("orders", 3, 812, 5))
    assert message.history[-1].error == "builtins.ValueError: no price" or "no price" in message.history[-1].error
    assert "attempt 2 of orders[3]@812 (message one) failed" in caplog.text


def test_its_attempts_go_on_until_the_dead_letter() -> None:
    """Each round has the headers of the delivery before."""
    rebound = Rebound(max_retries=2, base_delay=1)
    headers: Any = []
    ends = []
    for _ in range(3):
        handled = rebound.handle_failure(aio(headers), ValueError("no price"))
        headers = kafka_headers(rebound.stored[-1][0])
        ends.append((handled.then, handled.due_ms - NOW_MS, handled.destination))

    dead = rebound.stored[-1][0]
    assert ends == [
        ("retry", 1000, "kafka:orders"),
        ("retry", 2000, "kafka:orders"),
        ("dead-letter", 0, "kafka:orders-dlq"),
    ]
    assert (dead.reason, dead.attempt, len(dead.history)) == ("retries-exhausted", 3, 3)
    assert dead.failure is not None
    assert len({message.id for message, _ in rebound.stored}) == 1


def test_the_stack_trace_is_kept_with_a_dead_letter() -> None:
    rebound = Rebound(max_retries=0)
    try:
        int("no price")
    except ValueError as error:
        rebound.handle_failure(fields(), error)

    (message, _) = rebound.stored[0]
    assert message.failure is not None
    assert 'int("no price")' in message.failure.stacktrace


def test_policies_rules_and_instructions_hold() -> None:
    rebound = Rebound()
    policy = RetryPolicy(rules=(ErrorRule("TimeoutError", delay=7),))

    assert rebound.handle_failure(aio(), RetryAfter(60)).due_ms == NOW_MS + 60_000
    assert rebound.handle_failure(aio(), TimeoutError(), policy=policy).due_ms == NOW_MS + 7_000
    dead = rebound.handle_failure(aio(), DeadLetter("no such customer", topic="broken"))
    assert (dead.then, dead.reason, dead.destination) == ("dead-letter", "no such customer", "kafka:broken")
    stored = len(rebound.stored)
    dropped = rebound.handle_failure(aio(), Drop("cancelled"))
    assert (dropped.then, dropped.reason, dropped.destination) == ("drop", "cancelled", "")
    assert len(rebound.stored) == stored


def test_other_topics_and_brokers_are_taken() -> None:
    rebound = Rebound(kafka_brokers=("a:1",))

    rebound.handle_failure(aio(), "text", retry_topic="later", dead_letter_topic="dead", brokers="b:2,c:3")
    rebound.handle_failure(aio(), "text", brokers="a:1")

    (first, _), (second, _) = rebound.stored
    assert (first.destination, first.dead_destination) == (
        KafkaAddress("later", "b:2,c:3"),
        KafkaAddress("dead", "b:2,c:3"),
    )
    assert second.destination == KafkaAddress("orders"), "the app's own brokers need no name"


def test_a_record_without_a_place_has_no_origin() -> None:
    rebound = Rebound()

    rebound.handle_failure({"topic": "orders"}, "text")

    assert rebound.stored[0][0].origin is None


def test_a_redis_that_is_away_is_said() -> None:
    rebound = Rebound()
    rebound.error = NotStoredError("Redis is away")

    with pytest.raises(NotStoredError):
        rebound.handle_failure(aio(), ValueError())
    with pytest.raises(NotStoredError):
        asyncio.run(rebound.handle_failure_async(aio(), ValueError()))


def test_the_function_finds_the_apps_rebound() -> None:
    app = SimpleNamespace(main="shop", rebound=Rebound())

    assert handle_failure(aio(), ValueError(), app=app, group="g").then == "retry"
    assert asyncio.run(handle_failure_async(aio(), ValueError(), app=app, group="g")).then == "retry"
    assert [message.group for message, _ in app.rebound.stored] == ["g", "g"]
