"""Rebound's headers: each is written once and read back. Values of other programs are never trusted."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec.structs import replace

from rebound_celery.message import Message, Origin, PastAttempt, Record, derive_id
from rebound_celery.message import headers as h
from rebound_celery.message.address import KafkaAddress
from rebound_celery.message.headers import MAX_HISTORY_BYTES, OWN_HEADERS, kafka_headers, own_headers, read_record
from rebound_celery.message.history import MAX_PAST_ATTEMPTS, add_attempt
from rebound_celery.policy import Failure, RetryPolicy

Pairs = list[tuple[str, bytes | None]]

USERS: Pairs = [
    ("trace", b"\x00\xff\xfe"),
    ("empty", b""),
    ("trace", b"again"),
    ("null", None),
    ("", b"a name that is empty"),
    ("Rebound-Attempt", b"another name: Kafka's names tell case"),
    ("rebound", b"mine"),
]

SPAN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class ConsumerRecord(NamedTuple):
    """The fields of kafka-python's ConsumerRecord that rebound reads."""

    topic: str = "orders"
    partition: int = 3
    offset: int = 812
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"k"
    value: bytes | None = b"v"
    headers: Any = ()


def message_of(record: Record, **changes: Any) -> Message:
    """What a consumer of the group `billing` makes of a record whose handler failed."""
    message = Message(
        id=record.id,
        value=record.value,
        key=record.key,
        headers=record.headers,
        destination=KafkaAddress(record.topic),
        attempt=record.attempt + 1,
        policy=RetryPolicy(9, 1),
        group="billing",
        origin=record.origin,
        first_failed_at=record.first_failed_at or 1_700_000_005_000,
        history=add_attempt(record.history, record.attempt, 1_700_000_005_000, Failure("E", "no"), "consumer b@h"),
    )
    return replace(message, **changes)


def test_a_record_without_headers_is_a_first_attempt_of_its_own() -> None:
    record = read_record(ConsumerRecord(), "billing")

    assert (record.attempt, record.group, record.first_failed_at) == (1, None, None)
    assert record.origin == Origin("orders", 3, 812, 1_700_000_000_000)
    assert record.id == derive_id("billing", "orders", 3, 812, 1_700_000_000_000)


def test_two_groups_have_two_ids_for_one_record() -> None:
    assert read_record(ConsumerRecord(), "billing").id != read_record(ConsumerRecord(), "stock").id


def test_the_users_headers_are_kept_byte_for_byte_in_their_order() -> None:
    record = read_record(ConsumerRecord(headers=USERS), "billing")

    assert list(record.headers) == USERS
    assert kafka_headers(message_of(record))[: len(USERS)] == USERS


def test_over_five_attempts_each_header_replaces_its_earlier_value_and_none_piles_up() -> None:
    consumed = ConsumerRecord(headers=USERS)
    first = read_record(consumed, "billing")

    for attempt in range(1, 6):
        record = read_record(consumed, "billing")
        assert (record.attempt, record.id, record.origin) == (attempt, first.id, first.origin)
        assert list(record.headers) == USERS
        written = kafka_headers(message_of(record))
        names = [name for name, _ in written if name in OWN_HEADERS]
        assert len(names) == len(set(names)) == 9
        # It comes back in another place, as redelivered records do.
        consumed = ConsumerRecord(partition=1, offset=10_000 + attempt, timestamp=attempt, headers=written)

    assert [past.attempt for past in read_record(consumed, "billing").history] == [1, 2, 3, 4, 5]
    assert read_record(consumed, "billing").first_failed_at == 1_700_000_005_000
    assert read_record(consumed, "billing").group == "billing"


def test_a_replayed_dead_letter_carries_its_old_reason_no_further() -> None:
    record = read_record(ConsumerRecord(headers=USERS), "billing")
    dead = message_of(record).dead("rejected", Failure("ValueError", "bad", "Traceback"))

    replayed = read_record(ConsumerRecord(topic="orders-dlq", headers=kafka_headers(dead)), "billing")

    assert list(replayed.headers) == USERS
    names = {name for name, _ in kafka_headers(message_of(replayed))}
    assert names.isdisjoint({h.REASON, h.EXCEPTION_CLASS, h.EXCEPTION_MESSAGE, h.EXCEPTION_STACKTRACE})


def test_headers_of_a_caller_cannot_pose_as_rebounds() -> None:
    message = message_of(read_record(ConsumerRecord(), "billing"), headers=(("rebound-attempt", b"77"), ("a", b"1")))

    assert [value for name, value in kafka_headers(message) if name == "rebound-attempt"] == [b"2"]


def test_a_retry_is_told_in_text_that_any_kafka_tool_shows() -> None:
    message = Message(
        id="9f1c",
        value=None,
        destination=KafkaAddress("orders"),
        attempt=2,
        policy=RetryPolicy(3, 5),
        failure=Failure("ValueError", "only dead letters carry this"),
        group="billing",
        origin=Origin("orders", 0, 0, 0),
        first_failed_at=0,
        source="Zürich",
        client_id="c-7",
    )

    assert kafka_headers(message) == [
        ("rebound-id", b"9f1c"),
        ("rebound-attempt", b"2"),
        ("rebound-group", b"billing"),
        ("rebound-origin-topic", b"orders"),
        ("rebound-origin-partition", b"0"),
        ("rebound-origin-offset", b"0"),
        ("rebound-origin-timestamp", b"0"),
        ("rebound-first-failed-at", b"0"),
        ("rebound-source", "Zürich".encode()),
        ("rebound-client-id", b"c-7"),
    ]
    assert kafka_headers(message.dead("rejected", Failure("ValueError", "bad", "Traceback")))[10:] == [
        ("rebound-reason", b"rejected"),
        ("rebound-exception-class", b"ValueError"),
        ("rebound-exception-message", b"bad"),
        ("rebound-exception-stacktrace", b"Traceback"),
    ]


def test_every_header_that_is_written_is_one_that_is_taken_back() -> None:
    record = read_record(ConsumerRecord(), "billing")
    dead = message_of(record, source="s", client_id="c", history=(PastAttempt(1, 2, "a", "b"),), previous_span=SPAN)
    dead = dead.dead("rejected", Failure("a", "b", "c"))

    assert {name for name, _ in kafka_headers(dead)} == OWN_HEADERS
    assert {name for name, _ in own_headers(dead)} == OWN_HEADERS - {h.HISTORY, h.PREVIOUS_SPAN}, "not over HTTP"


def test_a_text_that_is_no_utf_8_does_not_stop_the_delivery() -> None:
    dead = message_of(read_record(ConsumerRecord(), "billing")).dead("rejected", Failure("", "lone \udcff surrogate"))

    assert dict(kafka_headers(dead))["rebound-exception-message"] == b"lone ? surrogate"


BROKEN_NUMBERS = [
    b"banana",
    b"",
    None,
    b"1_0",
    "\uff19".encode(),
    b"\xff\xfe",
    b" 2",
    b"2 ",
    b"2\n",
    b"+2",
    b"2.0",
    b"0x2",
    b"\x002",
    str(2**63).encode(),
    str(10**30).encode(),
    b"9" * 10_000,
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("rebound-attempt", value)
            for value in [*BROKEN_NUMBERS, b"-1", b"0", b"-0", b"102", b"9223372036854775807"]
        ],
        *[("rebound-first-failed-at", value) for value in BROKEN_NUMBERS],
        *[("rebound-origin-partition", value) for value in BROKEN_NUMBERS],
        *[("rebound-origin-offset", value) for value in BROKEN_NUMBERS],
        *[("rebound-origin-timestamp", value) for value in BROKEN_NUMBERS],
    ],
)
def test_a_broken_header_makes_a_first_attempt_with_one_warning_and_no_crash(
    name: str, value: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    written = kafka_headers(message_of(read_record(ConsumerRecord(headers=USERS), "billing")))
    broken = ConsumerRecord(offset=900, headers=[(n, value if n == name else v) for n, v in written])

    with caplog.at_level(logging.DEBUG):
        record = read_record(broken, "billing")

    untouched = read_record(broken._replace(headers=USERS), "billing")
    assert record == untouched
    assert [(entry.levelname, entry.event) for entry in caplog.records] == [("WARNING", "broken_headers")]
    assert "orders[3]@900" in caplog.text
    assert len(caplog.text) < 500


@pytest.mark.parametrize("attempt", [b"1", b"2", b"101", b"007"])
def test_every_attempt_that_rebound_writes_is_read_without_a_warning(
    attempt: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    record = read_record(ConsumerRecord(headers=[("rebound-attempt", attempt)]), "billing")

    assert record.attempt == int(attempt)
    assert not caplog.records


def test_of_a_header_that_stands_twice_the_last_counts() -> None:
    """Another tool may have appended one; Kafka's own `lastHeader` reads it the same way."""
    headers = [("rebound-attempt", b"4"), ("rebound-attempt", b"2")]

    assert read_record(ConsumerRecord(headers=headers), "billing").attempt == 2


# The history


HISTORY = (
    PastAttempt(1, 1_700_000_001_000, "shop.PaymentError: card refused", "consumer billing@host"),
    PastAttempt(2, 1_700_000_006_000, 'ValueError: "Zoë" \x00', "worker@host"),
)


def with_history(*history: PastAttempt) -> Message:
    return message_of(read_record(ConsumerRecord(), "billing"), history=history)


def test_the_history_is_json_that_any_kafka_tool_shows_and_is_read_back() -> None:
    written = kafka_headers(with_history(*HISTORY))

    assert dict(written)["rebound-history"] == (
        b'[{"attempt":1,"failed_at":1700000001000,"error":"shop.PaymentError: card refused",'
        b'"by":"consumer billing@host"},'
        b'{"attempt":2,"failed_at":1700000006000,"error":"ValueError: \\"Zo\xc3\xab\\" \\u0000","by":"worker@host"}]'
    )
    assert read_record(ConsumerRecord(headers=written), "billing").history == HISTORY


def test_a_message_without_history_has_no_such_header() -> None:
    assert "rebound-history" not in dict(kafka_headers(with_history()))


@pytest.mark.parametrize("text", ["x", "é", "\U0001f600", "\x00", '"', "\udcff"])
def test_a_history_that_is_too_long_for_a_header_loses_its_oldest_attempts(text: str) -> None:
    history: tuple[PastAttempt, ...] = ()
    for attempt in range(1, 11):
        history = add_attempt(history, attempt, 1_700_000_000_000, Failure("", text * 500), text * 500)

    written = kafka_headers(with_history(*history))

    size = len(dict(written)["rebound-history"] or b"")
    assert MAX_HISTORY_BYTES / 4 < size <= MAX_HISTORY_BYTES
    read = read_record(ConsumerRecord(headers=written), "billing").history
    assert [past.attempt for past in read] == list(range(11 - len(read), 11))
    assert len(read) >= 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"banana",
        b"{}",
        b"[1]",
        b"[[1,2,3,4]]",
        b'[{"attempt":1}]',
        b'[{"attempt":"1","failed_at":1,"error":"","by":""}]',
        b'[{"attempt":1,"failed_at":99999999999999999999,"error":"","by":""}]',
        b'[{"attempt":1,"failed_at":18446744073709551615,"error":"","by":""}]',
        b'[{"attempt":1,"failed_at":1,"error":"\\ud800","by":""}]',
        b"\xff\xfe",
        b"[" * 5_000,
        b" " * 1_000_000 + b"[]",
    ],
)
def test_a_broken_history_is_left_out_with_one_warning_and_the_rest_is_kept(
    value: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    written = kafka_headers(with_history(*HISTORY))
    broken = [(name, value if name == "rebound-history" else rest) for name, rest in written]

    with caplog.at_level(logging.DEBUG):
        record = read_record(ConsumerRecord(headers=broken), "billing")

    whole = read_record(ConsumerRecord(headers=written), "billing")
    assert record == replace(whole, history=())
    assert [(entry.levelname, entry.event) for entry in caplog.records] == [("WARNING", "broken_headers")]
    assert len(caplog.text) < 500


def test_a_history_of_another_program_is_cut_to_its_bounds() -> None:
    text = msgspec.json.encode([{"attempt": n, "failed_at": n, "error": "x" * 300, "by": "b"} for n in range(20)])

    history = read_record(ConsumerRecord(headers=[("rebound-history", text)]), "billing").history

    assert [past.attempt for past in history] == list(range(20 - MAX_PAST_ATTEMPTS, 20))
    assert {len(past.error) for past in history} == {200}


def test_the_span_of_the_attempt_before_goes_to_kafka_alone() -> None:
    record = read_record(ConsumerRecord(headers=[(h.PREVIOUS_SPAN, SPAN.encode()), ("mine", b"1")]), "billing")

    assert (record.previous_span, record.headers) == (SPAN, (("mine", b"1"),))
    message = message_of(record, previous_span=SPAN)
    assert kafka_headers(message)[-1] == (h.PREVIOUS_SPAN, SPAN.encode())
    assert h.PREVIOUS_SPAN not in dict(own_headers(message))
    again = read_record(ConsumerRecord(headers=[(h.PREVIOUS_SPAN, b"x" * 9_000)]), "billing")
    assert again.previous_span == "x" * len(SPAN)
