"""The message that travels: its wire form, its ids, and the bounded text of what failed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery.errors import WireFormatError
from rebound_celery.message import (
    MAX_ERROR_TEXT,
    MAX_STACKTRACE,
    Failure,
    Message,
    Origin,
    dead_letter_topic,
    derive_id,
    normalize_headers,
)
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress

MESSAGE = Message(
    id="9f1c",
    value=b"\xff\x00",
    key="Zoë".encode(),
    headers=(("a", b"1"), ("a", b""), ("b", None), ("c", b"\xfe")),
    destination=KafkaAddress("orders", "k1:9092", 3),
    dead_destination=KafkaAddress("orders-dlq"),
    attempt=2,
    max_retries=3,
    base_delay=5.0,
    reason="rejected",
    failure=Failure("shop.PaymentError", "card refused", "Traceback"),
    group="billing",
    origin=Origin("orders", 3, 812, 1_700_000_000_000),
    first_failed_at=1_700_000_001_000,
    content_type="application/json",
    source="api",
    client_id="c-7",
)

#: What version 1 of the wire form looks like. Messages in this form lie in people's Redis: a change that this test
#: notices needs a new WIRE_VERSION, and code that still reads this one.
GOLDEN = """
{"v": 1, "id": "9f1c", "value": ["/wA="], "key": "Zoë",
 "headers": [["a", "1"], ["a", ""], ["b", null], ["c", ["/g=="]]],
 "destination": {"topic": "orders", "brokers": "k1:9092", "partition": 3},
 "dead_destination": {"topic": "orders-dlq"},
 "attempt": 2, "max_retries": 3, "base_delay": 5.0, "reason": "rejected", "group": "billing",
 "first_failed_at": 1700000001000, "content_type": "application/json", "source": "api", "client_id": "c-7",
 "failure": ["shop.PaymentError", "card refused", "Traceback"],
 "origin": ["orders", 3, 812, 1700000000000]}
"""

MINIMAL = Message(id="1", value=None, destination=HttpAddress("http://r/"), attempt=1, max_retries=0, base_delay=1.0)
GOLDEN_MINIMAL = """
{"v": 1, "id": "1", "destination": {"url": "http://r/"}, "dead_destination": {"dead_set": true},
 "attempt": 1, "max_retries": 0, "base_delay": 1.0}
"""

topics = st.from_regex(r"[a-zA-Z0-9_-]{1,249}", fullmatch=True)
addresses = st.one_of(
    st.builds(KafkaAddress, topics, st.none() | st.just("k:9092"), st.none() | st.integers(0, 2**31 - 1)),
    st.sampled_from([HttpAddress("https://user:pw@receiver/p?q=1"), DEAD_SET]),
)
optional_bytes = st.none() | st.binary() | st.text().map(str.encode)
texts = st.text(st.characters(codec="utf-8"))
optional_text = st.none() | texts
numbers = st.integers(0, 2**63 - 1)
messages = st.builds(
    Message,
    id=texts,
    value=optional_bytes,
    key=optional_bytes,
    headers=st.lists(st.tuples(texts, optional_bytes)).map(tuple),
    destination=addresses,
    dead_destination=addresses,
    attempt=st.integers(1, 101),
    max_retries=st.integers(0, 100),
    base_delay=st.floats(1, 3600),
    reason=st.none() | st.sampled_from(["retries-exhausted", "rejected"]),
    failure=st.none() | st.builds(Failure, texts, texts, texts),
    group=optional_text,
    origin=st.none() | st.builds(Origin, topics, numbers, numbers, numbers),
    first_failed_at=st.none() | numbers,
    content_type=optional_text,
    source=optional_text,
    client_id=optional_text,
)


@pytest.mark.parametrize(("message", "golden"), [(MESSAGE, GOLDEN), (MINIMAL, GOLDEN_MINIMAL)], ids=["full", "minimal"])
def test_the_wire_form_of_version_1_stays_as_it_was_released(message: Message, golden: str) -> None:
    assert message.to_wire() == json.loads(golden)
    assert Message.from_wire(json.loads(golden)) == message


@given(messages)
def test_every_message_survives_json_unchanged(message: Message) -> None:
    assert Message.from_wire(json.loads(json.dumps(message.to_wire()))) == message


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_text_is_stored_at_its_own_size_and_binary_at_four_thirds(size: int) -> None:
    def stored(value: bytes) -> int:
        wire = Message(**{**_fields(MINIMAL), "value": value}).to_wire()
        return len(json.dumps(wire["value"], ensure_ascii=False).encode())

    assert stored(b"x" * size) == size + 2
    assert stored(b"\xff" * size) <= size * 4 / 3 + 10


@pytest.mark.parametrize("version", [None, 0, 2, 99, "1", [1], {}])
def test_a_message_of_another_version_is_refused_and_the_error_says_what_to_do(version: Any) -> None:
    with pytest.raises(WireFormatError, match=r"reads version 1 .*update the workers before the publishers"):
        Message.from_wire({**json.loads(GOLDEN), "v": version})


@pytest.mark.parametrize("wire", [None, "text", 7, [], [["v", 1]], True])
def test_what_is_no_object_is_refused(wire: Any) -> None:
    with pytest.raises(WireFormatError, match="is an object, not"):
        Message.from_wire(wire)


@pytest.mark.parametrize("field", ["id", "destination", "dead_destination", "attempt", "max_retries", "base_delay"])
def test_a_message_without_a_needed_field_is_damaged(field: str) -> None:
    wire = json.loads(GOLDEN)
    del wire[field]

    with pytest.raises(WireFormatError, match="damaged"):
        Message.from_wire(wire)


@pytest.mark.parametrize(
    "damage",
    [
        {"id": None},
        {"id": 7},
        {"value": 7},
        {"value": []},
        {"value": ["=not base64="]},
        {"value": ["AA==", "AA=="]},
        {"value": [7]},
        {"value": "\ud800"},
        {"key": {"a": 1}},
        {"headers": None},
        {"headers": 7},
        {"headers": "ab"},
        {"headers": [["name"]]},
        {"headers": [[7, "value"]]},
        {"headers": [["name", 7]]},
        {"destination": None},
        {"destination": {}},
        {"destination": {"topic": "a b"}},
        {"destination": "nowhere"},
        {"dead_destination": {"url": "ftp://x"}},
        {"attempt": None},
        {"attempt": "many"},
        {"attempt": 0},
        {"attempt": float("inf")},
        {"attempt": float("nan")},
        {"attempt": 102},
        {"max_retries": 101},
        {"max_retries": -1},
        {"base_delay": 0},
        {"base_delay": float("nan")},
        {"base_delay": "soon"},
        {"failure": ["one"]},
        {"failure": 7},
        {"origin": ["orders", 1]},
        {"origin": "orders"},
    ],
    ids=repr,
)
def test_a_damaged_field_is_reported_as_damage_and_never_as_another_error(damage: dict[str, Any]) -> None:
    with pytest.raises(WireFormatError, match="damaged"):
        Message.from_wire({**json.loads(GOLDEN), **damage})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)


@given(field=st.sampled_from(sorted(json.loads(GOLDEN))), value=json_values)
def test_whatever_json_stands_in_a_field_is_read_or_reported(field: str, value: Any) -> None:
    wire = {**json.loads(GOLDEN), field: value}

    try:
        message = Message.from_wire(wire)
    except WireFormatError:
        return

    assert Message.from_wire(json.loads(json.dumps(message.to_wire()))) == message


def test_a_task_id_is_the_same_for_the_same_attempt_and_another_for_each_further_one() -> None:
    ids = [
        Message(**{**_fields(MESSAGE), "reason": reason, "attempt": attempt}).task_id
        for reason, attempt in [(None, 2), (None, 2), (None, 3), ("rejected", 3), ("retries-exhausted", 4)]
    ]

    assert ids == ["9f1c:2", "9f1c:2", "9f1c:3", "9f1c:dead", "9f1c:dead"]


def test_a_derived_id_is_the_same_in_every_process_and_release() -> None:
    assert derive_id("billing", "orders", 3, 812, 1_700_000_000_000) == "3c3da546-c0b3-5889-899b-d7248bdfaaff"


def test_derived_ids_differ_where_only_the_border_between_parts_does() -> None:
    assert derive_id("ab", "c") != derive_id("a", "bc")


def test_a_message_that_is_given_up_goes_to_its_dead_destination_and_keeps_its_last_failure() -> None:
    alive = Message(**{**_fields(MESSAGE), "reason": None})

    dead = alive.dead("retries-exhausted")

    assert (alive.target, dead.target) == (alive.destination, alive.dead_destination)
    assert dead.failure == alive.failure
    assert alive.dead("rejected", Failure("", "too large")).failure == Failure("", "too large")


def test_the_text_of_a_message_reads_as_a_sentence_without_payload() -> None:
    alive = Message(**{**_fields(MESSAGE), "reason": None, "value": b"secret", "key": b"secret"})

    assert str(alive) == "orders[3]@812 attempt 2/4 -> kafka:orders"
    assert str(alive.dead("rejected")) == "orders[3]@812 dead after attempt 2: rejected -> kafka:orders-dlq"
    assert str(Message(**{**_fields(MINIMAL), "source": "billing"})) == "billing attempt 1/1 -> http://r/"
    assert str(MINIMAL) == "1 attempt 1/1 -> http://r/"


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_failure_names_the_exception_and_its_text() -> None:
    class PaymentError(Exception):
        pass

    assert Failure.of(ValueError("bad")) == Failure("ValueError", "bad")
    assert Failure.of(PaymentError("refused")).exception_class.startswith(f"{__name__}.")
    assert str(Failure.of(ValueError("bad"))) == "ValueError: bad"


def test_a_failure_may_be_a_text() -> None:
    assert Failure.of("card refused") == Failure("", "card refused")
    assert str(Failure.of("card refused")) == "card refused"


@pytest.mark.parametrize("error", ["x" * 50_000, ValueError("x" * 50_000)], ids=["text", "exception"])
def test_the_text_of_a_failure_is_bounded(error: Exception | str) -> None:
    assert Failure.of(error).message == "x" * MAX_ERROR_TEXT


@pytest.mark.parametrize("with_stack", [False, True])
def test_an_exception_whose_text_cannot_be_read_is_still_a_failure(with_stack: bool) -> None:
    failure = Failure.of(UnreadableError(), with_stack=with_stack)

    assert failure.exception_class.endswith("UnreadableError")
    assert failure.message == "(its text could not be read)"


def test_a_stack_trace_is_bounded_and_keeps_its_end_where_the_error_was_raised() -> None:
    def dig(depth: int) -> None:
        if depth:
            dig(depth - 1)
        raise ValueError("x" * 500 + "the bottom")

    with pytest.raises(ValueError, match="bottom") as raised:
        dig(100)
    failure = Failure.of(raised.value, with_stack=True)

    assert len(failure.stacktrace) <= MAX_STACKTRACE
    assert failure.stacktrace.endswith("the bottom\n")
    assert Failure.of(raised.value).stacktrace == ""


def test_a_dead_letter_topic_is_cut_to_the_length_that_kafka_allows() -> None:
    assert dead_letter_topic("orders", "-dlq") == KafkaAddress("orders-dlq")
    assert dead_letter_topic("x" * 249, "-dlq").topic == "x" * 245 + "-dlq"


@pytest.mark.parametrize(
    ("given_headers", "headers"),
    [
        (None, ()),
        ({}, ()),
        ({"a": "é", "b": b"\xff", "c": None}, (("a", "é".encode()), ("b", b"\xff"), ("c", None))),
        ([("a", b"1"), ("a", b"")], (("a", b"1"), ("a", b""))),
        (iter([["a", "1"]]), (("a", b"1"),)),
    ],
)
def test_headers_may_be_a_mapping_or_pairs(given_headers: Any, headers: Any) -> None:
    assert normalize_headers(given_headers) == headers


@pytest.mark.parametrize("given_headers", [{1: "a"}, {"a": 1}, {b"a": b"1"}, [("a", ["b"])], {"a": bytearray(b"1")}])
def test_headers_of_other_types_are_refused(given_headers: Any) -> None:
    with pytest.raises(TypeError, match="the name is text, the value bytes, text or None"):
        normalize_headers(given_headers)


def _fields(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in Message.__dataclass_fields__}
