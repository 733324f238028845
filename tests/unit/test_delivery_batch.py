"""The decision after each outcome of a delivery, without Redis, Kafka or a worker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from celery.worker import state

from rebound_celery import Message, RetryPolicy, Settings
from rebound_celery.delivery.batch import Batch, End, Result, pause_before_back
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.destinations import Delivered, Failed, Outcome, Rejected, Unavailable
from rebound_celery.errors import NotStoredError
from rebound_celery.message import Origin
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.policy import Failure

NOW_MS = 1_800_000_000_000


class Clock:
    """A clock that goes on while somebody sleeps only."""

    slept_s = 0.0

    def now_ms(self) -> int:
        return NOW_MS

    def monotonic(self) -> float:
        return self.slept_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept_s += seconds


@dataclass
class Answers:
    """A destination that gives these outcomes, one for each message, then the last one for ever."""

    outcomes: list[Outcome]
    sent: list[Message] = field(default_factory=list)

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        self.sent += messages
        return [self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0] for _ in messages]

    def close(self) -> None:
        """Nothing is open."""


def make_batch(
    store: list[Delivery] | Exception, kafka: Sequence[Outcome] = (), dead_set: Sequence[Outcome] = (), **settings: Any
) -> tuple[Batch, Answers, Answers]:
    def keep(deliveries: Sequence[Delivery]) -> None:
        if isinstance(store, Exception):
            raise store
        store.extend(deliveries)

    first, second = Answers(list(kafka)), Answers(list(dead_set) or [Delivered("dead-set")])
    destinations = {"kafka": first, "http": first, "dead-set": second}
    return Batch(destinations, Settings(**settings), keep, "celery@here", Clock()), first, second


def make_delivery(attempt: int = 2, tries: int = 0, **changes: Any) -> Delivery:
    fields: dict[str, Any] = {
        "id": "order-7",
        "value": b"secret",
        "destination": KafkaAddress("orders"),
        "dead_destination": DEAD_SET,
        "attempt": attempt,
        "policy": RetryPolicy(3, 5),
        "origin": Origin("orders", 3, 812, 1),
        **changes,
    }
    message = Message(**fields)
    return Delivery(message=message, task_id=f"order-7:{attempt}", tries=tries, priority=0, root_id="root")


def test_what_is_delivered_is_done() -> None:
    batch, _, _ = make_batch([], [Delivered("kafka:orders[3]@9")])

    assert batch.deliver([make_delivery()]) == [(End.DONE, "kafka:orders[3]@9", "")]


@pytest.mark.parametrize(("attempt", "delay_ms"), [(2, 10_000), (3, 20_000)])
def test_a_failed_attempt_is_followed_by_the_next_one_after_the_delay_of_the_policy(
    attempt: int, delay_ms: int
) -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored, [Failed("POST answered 500")])

    ((end, text, _),) = batch.deliver([make_delivery(attempt, tries=1)])

    (again,) = stored
    assert (end, text) == (End.AGAIN, "POST answered 500")
    assert (again.message.attempt, again.due_ms, again.tries) == (attempt + 1, NOW_MS + delay_ms, 2)
    assert (again.task_id, again.priority, again.root_id) == (f"order-7:{attempt}", 0, "root")
    assert str(again.message.failure) == "rebound_celery.errors.AttemptFailedError: POST answered 500"
    (past,) = again.message.history
    assert (past.attempt, past.failed_at_ms, past.by) == (attempt, NOW_MS, "celery@here")


def test_a_destination_that_asks_for_a_longer_delay_gets_it() -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored, [Failed("POST answered 429", retry_after_s=90.0)])

    batch.deliver([make_delivery()])

    assert stored[0].due_ms == NOW_MS + 90_000


def test_the_last_failed_attempt_is_a_dead_letter_at_once_and_the_delivery_has_failed() -> None:
    batch, _, dead_set = make_batch([], [Failed("POST answered 500")])

    ((end, text, _),) = batch.deliver([make_delivery(attempt=4)])

    assert end == End.DEAD
    assert text == "retries-exhausted: rebound_celery.errors.AttemptFailedError: POST answered 500"
    (letter,) = dead_set.sent
    assert (letter.reason, letter.attempt) == ("retries-exhausted", 4)


def test_what_is_rejected_is_a_dead_letter_whatever_attempt_it_is() -> None:
    batch, _, dead_set = make_batch([], [Rejected("too large")])

    ((end, text, _),) = batch.deliver([make_delivery()])

    assert (end, text) == (End.DEAD, "rejected: rebound_celery.errors.RejectedError: too large")
    assert dead_set.sent[0].reason == "rejected"


@pytest.mark.parametrize(("tries", "delay_ms"), [(0, 1_000), (1, 2_000), (5, 32_000), (6, 60_000), (10_000, 60_000)])
def test_an_outage_is_waited_out_with_a_growing_delay_and_uses_up_no_attempt(tries: int, delay_ms: int) -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored, [Unavailable("away")])
    delivery = make_delivery(tries=tries)

    assert batch.deliver([delivery]) == [(End.AGAIN, "away", "")]

    (again,) = stored
    assert (again.message, again.due_ms, again.tries) == (delivery.message, NOW_MS + delay_ms, tries + 1)


@pytest.mark.parametrize("outcome", [Failed("no"), Rejected("no"), Unavailable("no")])
def test_a_dead_letter_that_cannot_be_written_stays_scheduled_and_says_so_loudly(
    outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored, [outcome])
    delivery = make_delivery(reason="rejected", dead_destination=HttpAddress("http://receiver/dead"))

    assert batch.deliver([delivery]) == [(End.AGAIN, "no", "")]

    assert stored[0].message == delivery.message
    assert [entry.levelname for entry in caplog.records] == ["CRITICAL"]


def test_a_dead_letter_that_was_made_here_and_cannot_be_written_is_stored_as_one() -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored, [Rejected("too large")], [Unavailable("Redis is away")])

    assert batch.deliver([make_delivery()]) == [(End.AGAIN, "Redis is away", "")]

    assert stored[0].message.reason == "rejected"


def test_a_dead_letter_that_is_written_is_a_failure_with_its_stack_trace() -> None:
    batch, _, _ = make_batch([], [Delivered("kafka:orders-dlq[0]@4")])
    failure = Failure("ValueError", "boom", "Traceback ...")
    delivery = make_delivery(reason="retries-exhausted", failure=failure, dead_destination=KafkaAddress("orders-dlq"))

    assert batch.deliver([delivery]) == [(End.DEAD, "retries-exhausted: ValueError: boom", "Traceback ...")]


def test_what_cannot_be_stored_again_goes_back_after_a_while() -> None:
    batch, posts, _ = make_batch(NotStoredError("Redis is away"), [Unavailable("Kafka is away")])

    assert batch.deliver([make_delivery()]) == [(End.BACK, "Redis is away", "")]
    assert 5 <= batch.clock.monotonic() <= 15
    assert len(posts.sent) == 1


def test_what_redis_does_not_take_at_once_is_stored_a_little_later_and_not_delivered_again() -> None:
    stored: list[Delivery] = []
    refusals = [NotStoredError("max number of clients reached")] * 3

    def store(deliveries: Sequence[Delivery]) -> None:
        if refusals:
            raise refusals.pop()
        stored.extend(deliveries)

    batch, posts, _ = make_batch([], [Failed("POST answered 500")])

    ((end, _, _),) = replace(batch, store=store).deliver([make_delivery()])

    assert end == End.AGAIN
    assert [delivery.message.attempt for delivery in stored] == [3]
    assert len(posts.sent) == 1


def test_what_goes_back_is_not_met_again_at_full_speed() -> None:
    clock = Clock()

    pause_before_back([Result(End.DONE, "kafka:orders[3]@9"), Result(End.AGAIN, "Kafka is away")], clock)
    assert clock.slept_s == 0

    pause_before_back([Result(End.DONE, "kafka:orders[3]@9"), Result(End.BACK, "no descriptors")], clock)
    assert clock.slept_s == 1


def test_a_worker_that_stops_does_not_wait_for_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _, _ = make_batch(NotStoredError("Redis is away"), [Unavailable("Kafka is away")])
    monkeypatch.setattr(state, "should_stop", 0)

    assert batch.deliver([make_delivery()]) == [(End.BACK, "Redis is away", "")]
    assert batch.clock.monotonic() == 0


def test_each_message_of_a_batch_has_its_own_end() -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored, [Delivered("a"), Unavailable("away"), Rejected("never"), Failed("not now")])

    ends = [result.end for result in batch.deliver([make_delivery() for _ in range(4)])]

    assert ends == [End.DONE, End.AGAIN, End.DEAD, End.AGAIN]
    assert len(stored) == 2


def test_a_destination_that_breaks_its_promise_costs_no_message() -> None:
    stored: list[Delivery] = []
    batch, kafka, _ = make_batch(stored)
    kafka.outcomes = []  # there is none to give

    assert [result.end for result in batch.deliver([make_delivery()])] == [End.AGAIN]
    assert len(stored) == 1


@pytest.mark.parametrize(
    ("outcome", "event", "words"),
    [
        (Delivered("kafka:orders[3]@9"), "delivered", ["kafka:orders[3]@9"]),
        (Failed("answered 500"), "failed", ["answered 500", "attempt 3 follows in 10.0 s"]),
        (Rejected("too large"), "given_up", ["too large"]),
        (Unavailable("away"), "outage", ["away", "1.0 s"]),
    ],
)
def test_each_delivery_has_a_line_with_its_message_and_what_became_of_it(
    outcome: Outcome, event: str, words: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    batch, _, _ = make_batch([], [outcome])

    with caplog.at_level(logging.INFO):
        batch.deliver([make_delivery()])

    (line,) = (entry for entry in caplog.records if getattr(entry, "event", "") == event)
    assert vars(line)["message_id"] == "order-7"
    assert vars(line)["origin"] == "orders[3]@812"
    assert vars(line)["attempt"] == 2
    assert vars(line)["destination"] == "kafka:orders"
    for word in ["orders[3]@812 attempt 2/4 -> kafka:orders", *words]:
        assert word in line.getMessage()
    assert "secret" not in caplog.text


def test_a_dead_letter_for_a_slow_destination_is_written_by_a_job_of_its_own() -> None:
    """A second round of posts would have a second time-out, and hold up the others of its job."""
    stored: list[Delivery] = []
    batch, http, _ = make_batch(stored, [Failed("POST answered 500")])
    dead = HttpAddress("http://receiver/dead")

    ((end, text, _),) = batch.deliver([make_delivery(4, dead_destination=dead)])

    (letter,) = stored
    assert (end, text) == (End.AGAIN, "POST answered 500")
    assert (letter.message.reason, letter.message.target, letter.due_ms) == ("retries-exhausted", dead, NOW_MS)
    assert [message.reason for message in http.sent] == [None]


def test_no_dead_letter_is_begun_when_the_worker_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[Delivery] = []
    batch, kafka, _ = make_batch(stored, [Failed("refused")])
    monkeypatch.setattr(state, "should_stop", 0)

    ((end, _, _),) = batch.deliver([make_delivery(4, dead_destination=KafkaAddress("orders-dlq"))])

    assert end == End.AGAIN
    assert [(letter.message.reason, letter.due_ms) for letter in stored] == [("retries-exhausted", NOW_MS)]
    assert len(kafka.sent) == 1


def test_where_nothing_can_wait_a_dead_letter_is_written_at_once() -> None:
    batch, http, _ = make_batch([], [Failed("POST answered 500"), Delivered("http://receiver/dead answered 200")])
    batch = replace(batch, store=None)

    ((end, _, _),) = batch.deliver([make_delivery(4, dead_destination=HttpAddress("http://receiver/dead"))])

    assert end == End.DEAD
    assert [message.reason for message in http.sent] == [None, "retries-exhausted"]
