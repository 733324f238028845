"""Dead letters of other programs are read into the fields of rebound's own. The headers are as those programs write."""

from __future__ import annotations

import struct
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery.config import Settings
from rebound_celery.dead_letters.again import NotReplayableError, prepare
from rebound_celery.dead_letters.letter import Letter, letter_of_record
from rebound_celery.message import Origin
from rebound_celery.message.address import KafkaAddress
from rebound_celery.message.foreign import read_foreign

STACK = b"java.lang.IllegalStateException: no stock\n\tat shop.Orders.handle(Orders.java:42)\n"

#: As `DeadLetterPublishingRecoverer` writes them: numbers in 4 or 8 bytes, the highest first.
SPRING = [
    ("trace", b"abc"),
    ("kafka_dlt-original-topic", b"orders"),
    ("kafka_dlt-original-partition", struct.pack(">i", 3)),
    ("kafka_dlt-original-offset", struct.pack(">q", 812)),
    ("kafka_dlt-original-timestamp", struct.pack(">q", 1_700_000_000_000)),
    ("kafka_dlt-original-timestamp-type", b"CreateTime"),
    ("kafka_dlt-original-consumer-group", b"billing"),
    ("kafka_dlt-exception-fqcn", b"org.springframework.kafka.listener.ListenerExecutionFailedException"),
    ("kafka_dlt-exception-cause-fqcn", b"java.lang.IllegalStateException"),
    ("kafka_dlt-exception-message", b"Listener failed; no stock"),
    ("kafka_dlt-exception-stacktrace", STACK),
]

#: As `@RetryableTopic` writes them.
SPRING_RETRYABLE = [
    ("kafka_original-topic", b"orders"),
    ("kafka_original-partition", struct.pack(">i", 3)),
    ("kafka_original-offset", struct.pack(">q", 812)),
    ("kafka_original-timestamp", struct.pack(">q", 1_700_000_000_000)),
    ("retry_topic-attempts", struct.pack(">i", 4)),
    ("retry_topic-original-timestamp", struct.pack(">q", 1_700_000_000_000)),
    ("retry_topic-backoff-timestamp", struct.pack(">q", 1_700_000_009_000)),
    ("kafka_exception-fqcn", b"java.lang.IllegalStateException"),
    ("kafka_exception-message", b"no stock"),
    ("kafka_exception-stacktrace", STACK),
]

#: As `DeadLetterQueueReporter` writes them: numbers as text.
CONNECT = [
    ("trace", b"abc"),
    ("__connect.errors.topic", b"orders"),
    ("__connect.errors.partition", b"3"),
    ("__connect.errors.offset", b"812"),
    ("__connect.errors.connector.name", b"s3-sink"),
    ("__connect.errors.task.id", b"0"),
    ("__connect.errors.stage", b"VALUE_CONVERTER"),
    ("__connect.errors.class.name", b"org.apache.kafka.connect.json.JsonConverter"),
    ("__connect.errors.exception.class.name", b"org.apache.kafka.connect.errors.DataException"),
    ("__connect.errors.exception.message", b"Converting byte[] to Kafka Connect data failed"),
    ("__connect.errors.exception.stacktrace", STACK),
]

#: As `ExceptionHandlerUtils` writes them (KIP-1034).
STREAMS = [
    ("__streams.errors.exception", b"java.lang.IllegalStateException: no stock"),
    ("__streams.errors.stacktrace", STACK),
    ("__streams.errors.message", b"no stock"),
    ("__streams.errors.topic", b"orders"),
    ("__streams.errors.partition", b"3"),
    ("__streams.errors.offset", b"812"),
]

#: As `KafkaDeadLetterQueue` writes them, before the headers of the record.
SMALLRYE = [
    ("dead-letter-exception-class-name", b"java.lang.RuntimeException"),
    ("dead-letter-reason", b"Something went wrong"),
    ("dead-letter-cause-class-name", b"java.io.IOException"),
    ("dead-letter-cause", b"disk"),
    ("dead-letter-topic", b"orders"),
    ("dead-letter-partition", b"3"),
    ("dead-letter-offset", b"812"),
    ("trace", b"abc"),
]

#: As `ShareGroupDLQStateManager` writes them (KIP-1191).
SHARE_GROUP = [
    ("__dlq.errors.topic", b"orders"),
    ("__dlq.errors.partition", b"3"),
    ("__dlq.errors.offset", b"812"),
    ("__dlq.errors.group", b"billing"),
    ("__dlq.errors.delivery.count", b"5"),
    ("__dlq.errors.message", b"Offset rejected by client."),
]


def letter_of(headers: list[tuple[str, bytes | None]], **fields: Any) -> Letter:
    record = {
        "topic": "any-dlq",
        "partition": 0,
        "offset": 7,
        "timestamp": 1_700_000_005_000,
        "key": b"k",
        "value": b"v",
        "headers": headers,
        **fields,
    }
    kind = record.pop("timestamp_type", 0)
    return letter_of_record(SimpleNamespace(**record), "-dlq", kind)


@pytest.mark.parametrize(
    ("headers", "program", "exception", "error"),
    [
        (SPRING, "spring-kafka", "java.lang.IllegalStateException", "Listener failed; no stock"),
        (SPRING_RETRYABLE, "spring-kafka", "java.lang.IllegalStateException", "no stock"),
        (
            CONNECT,
            "kafka-connect",
            "org.apache.kafka.connect.errors.DataException",
            "Converting byte[] to Kafka Connect data failed",
        ),
        (STREAMS, "kafka-streams", "java.lang.IllegalStateException", "no stock"),
        (SMALLRYE, "smallrye", "java.lang.RuntimeException", "Something went wrong"),
        (SHARE_GROUP, "share-group", None, None),
    ],
    ids=["spring", "spring retryable", "connect", "streams", "smallrye", "share group"],
)
def test_the_place_and_the_failure_are_read(
    headers: list[tuple[str, bytes | None]], program: str, exception: str | None, error: str | None
) -> None:
    view = letter_of(headers).view

    assert view.written_by == program
    assert view.origin is not None
    assert (view.origin.topic, view.origin.partition, view.origin.offset) == ("orders", 3, 812)
    assert (view.exception, view.error) == (exception, error)
    # What a replay sends are the headers that the record had.
    assert {name for name, _ in view.headers} <= {"trace"}


def test_what_only_some_programs_tell_is_read() -> None:
    spring, retryable = letter_of(SPRING).view, letter_of(SPRING_RETRYABLE).view
    connect, share = letter_of(CONNECT).view, letter_of(SHARE_GROUP).view

    assert spring.origin == Origin("orders", 3, 812, 1_700_000_000_000)
    assert spring.group == "billing"
    assert spring.failure is not None
    assert spring.failure.stacktrace == STACK.decode()
    assert (retryable.attempts, spring.attempts) == (4, None)
    assert (connect.reason, connect.source) == ("VALUE_CONVERTER", "s3-sink")
    assert (share.attempts, share.group, share.reason) == (5, "billing", "Offset rejected by client.")


def test_the_time_of_death_is_known_only_where_the_letter_has_its_own_timestamp() -> None:
    assert letter_of(SPRING).view.died_ms == 1_700_000_005_000
    assert letter_of(CONNECT).view.died_ms is None
    assert letter_of(CONNECT, timestamp_type=1).view.died_ms == 1_700_000_005_000


def test_the_newest_headers_count_where_a_record_has_died_twice() -> None:
    older = [("kafka_dlt-original-topic", b"old"), ("dead-letter-topic", b"old")]

    assert letter_of([*older[:1], *SPRING]).topic == "orders"
    assert letter_of([*SMALLRYE, *older[1:]]).topic == "orders"


@pytest.mark.parametrize("value", [b"812", struct.pack(">q", 812), struct.pack(">i", 812)])
def test_numbers_are_text_or_bytes(value: bytes) -> None:
    headers = [(name, value if name.endswith("-offset") else old) for name, old in SPRING]

    origin = letter_of(headers).view.origin

    assert origin is not None
    assert origin.offset == 812


@pytest.mark.parametrize("value", [b"", b"x", b"-5", None, b"1" * 30, struct.pack(">i", -1)])
def test_a_broken_number_leaves_the_place_unknown_and_the_topic_known(value: bytes | None) -> None:
    headers = [(name, value if name.endswith("-offset") else old) for name, old in SPRING]

    letter = letter_of(headers)

    assert letter.view.origin is None
    assert letter.topic == "orders"
    assert prepare(letter, Settings(), None, 3).message.destination == KafkaAddress("orders")


def test_a_letter_is_replayed_to_its_topic_without_the_headers_of_its_death() -> None:
    message = prepare(letter_of(SPRING), Settings(), None, 3).message

    assert message.destination == KafkaAddress("orders")
    assert message.headers == (("trace", b"abc"), ("rebound-replays", b"1"))
    # The group is of a program that knows nothing of rebound.
    assert (message.attempt, message.group, message.key, message.value) == (1, None, b"k", b"v")
    assert prepare(letter_of(SPRING), Settings(), None, 3).message.id == message.id


def test_a_letter_without_the_copied_record_is_not_replayed() -> None:
    letter = letter_of(SHARE_GROUP, key=None, value=None)

    with pytest.raises(NotReplayableError, match=r"copied neither its key nor its value of orders\[3\]@812"):
        prepare(letter, Settings(), None, 3)
    assert prepare(letter_of(SHARE_GROUP, key=None), Settings(), None, 3).message.value == b"v"


def test_a_topic_in_a_header_that_no_topic_can_have_is_not_replayed_to() -> None:
    letter = letter_of([("dead-letter-topic", b"a b")])

    assert letter.view.destination is None
    with pytest.raises(NotReplayableError, match="give a target"):
        prepare(letter, Settings(), None, 3)


def test_headers_of_no_program_are_none() -> None:
    assert read_foreign((("trace", b"1"), ("kafka_dlt-exception-fqcn", b"x"))) is None
    assert letter_of([("trace", b"1")]).view.written_by == "unknown"


NAMES = [name for headers in (SPRING, SPRING_RETRYABLE, CONNECT, STREAMS, SMALLRYE, SHARE_GROUP) for name, _ in headers]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.binary(max_size=30)), max_size=30))
def test_any_headers_make_a_view_and_a_clear_answer(headers: list[tuple[str, bytes | None]]) -> None:
    letter = letter_of(headers)

    assert letter.view.to_dict()["id"] == "any-dlq:0:7"
    with suppress(NotReplayableError):
        assert prepare(letter, Settings(), None, 3).message.attempt == 1
