"""The message: its ids, its next state after a failed attempt, and the bounded text of its failure."""

from __future__ import annotations

import multiprocessing
import pickle
import uuid
from typing import Any

import pytest
from msgspec.structs import asdict, replace

from rebound_celery.message import (
    Message,
    Origin,
    PastAttempt,
    dead_letter_topic,
    derive_id,
    new_id,
    normalize_headers,
)
from rebound_celery.message.address import HttpAddress, KafkaAddress
from rebound_celery.message.history import MAX_BY, MAX_PAST_ATTEMPTS, MAX_PAST_ERROR, add_attempt
from rebound_celery.message.ids import derive_record_id
from rebound_celery.policy import (
    MAX_ERROR_TEXT,
    MAX_STACKTRACE,
    REJECTED,
    DeadLetter,
    Failure,
    Retry,
    RetryPolicy,
)

MESSAGE = Message(
    id="9f1c",
    value=b"\xff\x00",
    key="Zoë".encode(),
    headers=(("a", b"1"), ("a", b""), ("b", None), ("c", b"\xfe")),
    destination=KafkaAddress("orders", "k1:9092", 3),
    dead_destination=KafkaAddress("orders-dlq"),
    attempt=2,
    policy=RetryPolicy(3, 5.0),
    reason="rejected",
    failure=Failure("shop.PaymentError", "card refused", "Traceback"),
    history=(PastAttempt(1, 1_700_000_001_000, "shop.PaymentError: card refused", "consumer billing@host"),),
    group="billing",
    origin=Origin("orders", 3, 812, 1_700_000_000_000),
    first_failed_at=1_700_000_001_000,
    content_type="application/json",
    source="api",
    client_id="c-7",
)

MINIMAL = Message(id="1", value=None, destination=HttpAddress("http://r/"), attempt=1, policy=RetryPolicy(0, 1.0))


def test_a_task_id_is_the_same_for_the_same_attempt_and_another_for_each_further_one() -> None:
    ids = [
        replace(MESSAGE, reason=reason, attempt=attempt).task_id
        for reason, attempt in [(None, 2), (None, 2), (None, 3), ("rejected", 3), ("retries-exhausted", 4)]
    ]

    assert ids == ["9f1c:2", "9f1c:2", "9f1c:3", "9f1c:dead", "9f1c:dead"]


def test_a_derived_id_is_the_same_in_every_process_and_release() -> None:
    assert derive_id("billing", "orders", 3, 812, 1_700_000_000_000) == "3c3da546-c0b3-5889-899b-d7248bdfaaff"


def test_a_records_id_is_the_id_that_is_derived_of_its_parts() -> None:
    parts = ("billing", "orders", 3, 812, 1_700_000_000_000)

    assert derive_record_id(*parts) == derive_id(*parts)


def test_new_ids_are_random_uuids_and_differ_between_a_process_and_its_children() -> None:
    new_id()
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sending.send([new_id() for _ in range(300)]))
    child.start()
    childs = receiving.recv()
    child.join()

    ids = [new_id() for _ in range(600)]
    assert len({*ids, *childs}) == 900
    assert all(uuid.UUID(new).version == 4 and str(uuid.UUID(new)) == new for new in ids)


def test_derived_ids_differ_where_only_the_border_between_parts_does() -> None:
    assert derive_id("ab", "c") != derive_id("a", "bc")


def test_a_message_that_is_given_up_goes_to_its_dead_destination_and_keeps_its_last_failure() -> None:
    alive = replace(MESSAGE, reason=None)

    dead = alive.dead("retries-exhausted")

    assert (alive.target, dead.target) == (alive.destination, alive.dead_destination)
    assert dead.failure == alive.failure
    assert alive.dead("rejected", Failure("", "too large")).failure == Failure("", "too large")


def test_the_text_of_a_message_reads_as_a_sentence_without_payload() -> None:
    alive = replace(MESSAGE, reason=None, value=b"secret", key=b"secret")

    assert str(alive) == "orders[3]@812 attempt 2/4 -> kafka:orders"
    assert str(alive.dead("rejected")) == "orders[3]@812 dead after attempt 2: rejected -> kafka:orders-dlq"
    assert str(replace(MINIMAL, source="billing")) == "billing attempt 1/1 -> http://r/"
    assert str(MINIMAL) == "attempt 1/1 -> http://r/"


def test_a_failed_attempt_is_followed_by_the_next_one_and_remembered() -> None:
    message = replace(MESSAGE, reason=None, first_failed_at=None, unknown={"later": 1})
    failure = Failure("ValueError", "bad")

    after = message.failed(failure, Retry(2_000, 3), now_ms=1_000, by="worker@host")

    expected = {
        **asdict(message),
        "attempt": 3,
        "failure": failure,
        "first_failed_at": 1_000,
        "history": (*message.history, PastAttempt(2, 1_000, "ValueError: bad", "worker@host")),
    }
    assert asdict(after) == expected


def test_a_last_attempt_that_failed_makes_a_dead_letter_with_its_own_number() -> None:
    message = replace(MESSAGE, reason=None)

    after = message.failed(Failure("", "no"), DeadLetter(REJECTED), now_ms=1_000, by="worker@host")

    assert (after.attempt, after.reason, after.target) == (2, REJECTED, message.dead_destination)
    assert after.first_failed_at == message.first_failed_at
    assert after.history[-1] == PastAttempt(2, 1_000, "no", "worker@host")


def test_a_history_keeps_the_newest_attempts_in_bounded_text() -> None:
    history: tuple[PastAttempt, ...] = ()
    for attempt in range(1, 31):
        history = add_attempt(history, attempt, attempt * 10, Failure("E", "x" * 5_000), "b" * 5_000)

    assert [past.attempt for past in history] == list(range(21, 31))
    assert len(history) == MAX_PAST_ATTEMPTS
    assert {(len(past.error), len(past.by)) for past in history} == {(MAX_PAST_ERROR, MAX_BY)}


def test_a_history_says_nothing_of_why_where_nobody_did() -> None:
    assert add_attempt((), 1, 10, None, "here") == (PastAttempt(1, 10, "", "here"),)


def test_a_message_can_be_pickled() -> None:
    message = replace(MESSAGE, unknown={"a": [1]})

    assert pickle.loads(pickle.dumps(message)) == message


def test_two_messages_share_nothing_that_can_change() -> None:
    other = Message(id="1", value=None, destination=HttpAddress("http://r/"), attempt=1, policy=RetryPolicy())

    assert other.unknown is not MINIMAL.unknown


class _Endless(str):
    def __getitem__(self, _: Any) -> str:
        return self


class EndlessError(Exception):
    def __str__(self) -> str:
        return _Endless("x" * 50_000)


@pytest.mark.parametrize("error", [EndlessError(), _Endless("x" * 50_000)], ids=["exception", "text"])
def test_the_text_of_a_failure_is_bounded_whatever_its_class_does(error: Exception | str) -> None:
    message = Failure.of(error).message

    assert (message, type(message)) == ("x" * MAX_ERROR_TEXT, str)


class UnreadableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _Hostile(type):
    @property
    def __module__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no module")


class HostileClassError(Exception, metaclass=_Hostile):
    pass


def test_an_exception_whose_class_cannot_be_read_is_still_a_failure() -> None:
    assert Failure.of(HostileClassError("x")) == Failure("(its class could not be read)", "x")


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
    def recurse(depth: int) -> None:
        if depth:
            recurse(depth - 1)
        raise ValueError("x" * 500 + "the bottom")

    with pytest.raises(ValueError, match="bottom") as raised:
        recurse(100)
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
