"""The decision after each outcome of a delivery, without Redis, Kafka or a worker."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from celery.worker import state

from rebound_celery import ErrorRule, Message, RetryPolicy, Settings
from rebound_celery.delivery.batch import Batch
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.delivery.ended import from_wire
from rebound_celery.delivery.result import End, Result, pause_before_back
from rebound_celery.destinations import Delivered, Failed, Held, Outcome, Rejected, Unavailable, Underway
from rebound_celery.errors import NotStoredError, WireFormatError
from rebound_celery.message import Origin
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.policy import Failure
from rebound_celery.schedule.port import Hold, Tally

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

    outcomes: list[Outcome | Underway]
    sent: list[Message] = field(default_factory=list)

    def send(self, messages: Sequence[Message]) -> list[Outcome | Underway]:
        self.sent += messages
        return [self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0] for _ in messages]

    def close(self) -> None:
        """Nothing is open."""


def make_batch(
    store: list[Delivery] | Exception, kafka: Sequence[Outcome] = (), dead_set: Sequence[Outcome] = (), **settings: Any
) -> tuple[Batch, Answers, Answers]:
    def keep(deliveries: Sequence[Delivery], *, hold: Hold | None = None, tally: Tally | None = None) -> None:
        if isinstance(store, Exception):
            raise store
        store.extend(deliveries)

    first, second = Answers(list(kafka)), Answers(list(dead_set) or [Delivered("dead-set")])
    destinations = {"kafka": first, "http": first, "dead-set": second}
    batch = Batch(destinations, Settings(**settings), keep, "celery@here", Clock(), lambda task_ids, *, dead: None)
    return batch, first, second


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


FAILED = "rebound_celery.errors.AttemptFailedError"


def test_a_rule_of_the_message_drops_what_its_destination_refuses(caplog: pytest.LogCaptureFixture) -> None:
    stored: list[Delivery] = []
    batch, _, dead_set = make_batch(stored, [Failed("POST answered 500")])
    policy = RetryPolicy(rules=[ErrorRule(FAILED, "drop")])

    ((end, text, _),) = batch.deliver([make_delivery(policy=policy)])

    assert (end, text) == (End.DROPPED, f"dropped (rule): {FAILED}: POST answered 500")
    assert (stored, dead_set.sent) == ([], [])
    assert [line.event for line in caplog.records] == ["dropped"]  # type: ignore[attr-defined]


def test_a_rule_of_the_message_says_the_delay_and_the_dead_letter_topic() -> None:
    stored: list[Delivery] = []
    batch, kafka, _ = make_batch(stored, [Failed("POST answered 500"), Failed("POST answered 500"), Delivered("there")])
    policy = RetryPolicy(
        3, 5, rules=[ErrorRule("rebound_celery.errors.DeliveryError", delay=2, dead_letter_topic="dlq")]
    )

    batch.deliver([make_delivery(policy=policy)])
    ((end, _, _),) = batch.deliver([make_delivery(attempt=4, policy=policy)])

    assert [again.due_ms for again in stored] == [NOW_MS + 2000]
    assert end == End.DEAD
    assert (kafka.sent[-1].reason, kafka.sent[-1].target) == ("retries-exhausted", KafkaAddress("dlq"))


def test_jitter_budget_and_limit_hold_for_deliveries() -> None:
    stored: list[Delivery] = []
    batch, _, dead_set = make_batch(stored, [Failed("POST answered 429", retry_after_s=9e9)])
    policy = RetryPolicy(3, 5, max_delay=60, budget=100)

    batch.deliver([make_delivery(policy=policy)])
    batch.deliver([make_delivery(policy=policy, first_failed_at=NOW_MS - 40_001)])
    full = replace(make_batch(stored, [Failed("no")])[0], draw=lambda: 0.25)
    full.deliver([make_delivery(policy=RetryPolicy(3, 5, jitter="full"))])

    assert [again.due_ms - NOW_MS for again in stored] == [60_000, 2_500]
    assert [letter.reason for letter in dead_set.sent] == ["budget-exhausted"]


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

    def store(deliveries: Sequence[Delivery], *, hold: Hold | None = None, tally: Tally | None = None) -> None:
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


@pytest.mark.parametrize(("then", "end", "dead"), [("drop", End.DROPPED, False), ("dead-letter", End.DEAD, True)])
def test_chain_hears_how_its_head_has_ended(then: Any, end: End, dead: bool) -> None:
    gone: list[tuple[Sequence[str], bool]] = []
    batch, _, _ = make_batch([], [Rejected("too large")])
    batch = replace(batch, gone=lambda task_ids, *, dead: gone.append((task_ids, dead)))
    policy = RetryPolicy(3, 5, rules=[ErrorRule(Exception, then)])
    head, other = make_delivery(policy=policy), make_delivery(policy=policy, id="order-8")
    head.chained = True

    results = batch.deliver([other, head])

    assert [result.end for result in results] == [end, end]
    assert gone == [([head.task_id], dead)]


@pytest.mark.parametrize("then", ["drop", "dead-letter"])
def test_what_has_ended_goes_back_if_its_chain_cannot_hear_of_it(then: Any) -> None:
    def gone(task_ids: Sequence[str], *, dead: bool) -> None:
        raise NotStoredError("Redis is away")

    batch, _, _ = make_batch([], [Rejected("too large")])
    head = make_delivery(policy=RetryPolicy(3, 5, rules=[ErrorRule(Exception, then)]))
    head.chained = True

    assert replace(batch, gone=gone).deliver([head]) == [(End.BACK, "Redis is away", "")]


@dataclass
class Waits:
    """A destination that has not answered yet."""

    outcome: Future[Outcome] = field(default_factory=Future)

    def send(self, messages: Sequence[Message]) -> list[Outcome | Underway]:
        return [Underway("there is no answer yet", 30, self.outcome)]

    def close(self) -> None:
        """Nothing is open."""


def test_what_takes_long_waits_in_redis_and_its_outcome_is_settled_by_another_job() -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored)
    slow = Waits()
    delivery = make_delivery()

    (result,) = replace(batch, destinations={"kafka": slow}).deliver([delivery])

    assert result.end == End.AGAIN
    (safe,) = stored
    assert safe.due_ms == NOW_MS + 35_000, "if this process dies, the message is delivered again"
    assert (safe.message, safe.tries, safe.ended) == (delivery.message, 0, None)

    slow.outcome.set_result(Failed("POST x answered 500", 7, 500))
    ended = Delivery.decode(stored[-1].task_id, stored[-1].encode())
    assert stored[-1].due_ms == NOW_MS
    assert ended.ended == Failed("POST x answered 500", 7, 500)

    batch, kafka, _ = make_batch(stored, [Delivered("nobody asks for this")])
    (result,) = batch.deliver([ended])
    assert (result.end, result.text, kafka.sent) == (End.AGAIN, "POST x answered 500", [])
    assert (stored[-1].message.attempt, stored[-1].ended) == (3, None)


@pytest.mark.parametrize(
    "outcome", [Delivered("x"), Failed("x", 1.5, 429), Failed("x"), Rejected("x"), Unavailable("x"), Held("x", 1, "l")]
)
def test_the_outcome_of_a_delivery_can_be_stored(outcome: Outcome) -> None:
    delivery = make_delivery()
    delivery.ended = outcome

    assert Delivery.decode("order-7:2", delivery.encode()).ended == outcome


@pytest.mark.parametrize(
    "wire",
    [
        "x",
        [],
        ["lost", "x"],
        ["failed"],
        ["failed", 1, 2, 3, 4, 5],
        [["failed"]],
        ["failed", 5],
        ["failed", "x", "60"],
        ["held", "x", None],
    ],
)
def test_a_damaged_outcome_is_a_damaged_delivery(wire: object) -> None:
    with pytest.raises(WireFormatError):
        from_wire(wire)


def test_a_message_is_held_while_it_is_under_way_and_its_outcome_ends_that() -> None:
    holds: list[Hold | None] = []
    refusals = [NotStoredError("Redis is restarted")] * 3

    def store(deliveries: Sequence[Delivery], *, hold: Hold | None = None, tally: Tally | None = None) -> None:
        if hold is not None and hold.ends and refusals:
            raise refusals.pop()
        holds.append(hold)

    batch, _, _ = make_batch([])
    slow = Waits()
    replace(batch, destinations={"kafka": slow}, store=store).deliver([make_delivery()])
    slow.outcome.set_result(Delivered("x"))

    begun, ended = holds
    assert begun is not None
    assert not begun.ends
    assert ended == Hold(begun.token, NOW_MS, ends=True)
    assert not refusals, "it is tried again while Redis is away for a moment"


def test_an_outcome_that_cannot_be_stored_is_logged_and_the_message_is_delivered_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored)
    slow = Waits()
    replace(batch, destinations={"kafka": slow}).deliver([make_delivery()])
    batch_without, _, _ = make_batch(NotStoredError("Redis is away"))

    slow.outcome.set_result(Delivered("x"))
    batch_without._settle_later(stored[0], "t", slow.outcome)

    assert "could not be stored, so it is delivered again" in caplog.text


def test_where_nothing_can_wait_every_outcome_is_waited_for() -> None:
    batch, _, _ = make_batch([])
    slow = Waits()
    slow.outcome.set_result(Delivered("x"))

    assert replace(batch, destinations={"kafka": slow}, waits=True).deliver([make_delivery()]) == [
        Result(End.DONE, "x")
    ]


def test_what_a_destination_holds_uses_up_no_attempt_and_no_try_and_waits_where_it_says() -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored, [Held("it is disabled", 60, "http:x:443/hook")])

    (result,) = batch.deliver([make_delivery()])

    assert result == Result(End.AGAIN, "it is disabled")
    assert (stored[0].message.attempt, stored[0].tries) == (2, 0)
    assert (stored[0].due_ms, stored[0].lane) == (NOW_MS + 60_000, "http:x:443/hook")


@pytest.mark.parametrize(("max_delay", "delay_s"), [(None, 900), (60, 60)])
def test_what_a_receiver_asks_to_wait_is_bounded_by_the_policy(max_delay: float | None, delay_s: int) -> None:
    stored: list[Delivery] = []
    batch, _, _ = make_batch(stored, [Failed("POST x answered 503", 900.0, 503)])

    batch.deliver([make_delivery(policy=RetryPolicy(3, 5, max_delay=max_delay))])

    assert (stored[0].message.attempt, stored[0].due_ms) == (3, NOW_MS + delay_s * 1000)


@pytest.mark.parametrize("is_settled_later", [False, True])
@pytest.mark.parametrize(
    ("outcome", "error"),
    [(Failed("POST x answered 404", None, 404, True), "AttemptFailedError"), (Rejected("too large"), "RejectedError")],
)
def test_rules_by_error_hold_for_what_a_receiver_answers(outcome: Outcome, error: str, is_settled_later: bool) -> None:
    batch, http, _ = make_batch([], [outcome])
    rules = [ErrorRule(f"rebound_celery.errors.{error}", "drop")]
    delivery = make_delivery(destination=HttpAddress("https://x.test/"), policy=RetryPolicy(3, 5, rules=rules))
    if is_settled_later:
        delivery.ended = outcome

    ((end, text, _),) = batch.deliver([delivery])

    assert (end, len(http.sent)) == (End.DROPPED, int(not is_settled_later))
    assert "dropped (rule)" in text


def test_chain_hears_of_its_head_when_its_late_outcome_is_settled() -> None:
    """Not before: while the request is under way, nobody knows how it ends."""
    stored: list[Delivery] = []
    gone: list[tuple[Sequence[str], bool]] = []
    batch, _, _ = make_batch(stored)
    batch = replace(batch, gone=lambda task_ids, *, dead: gone.append((task_ids, dead)))
    slow = Waits()
    head = make_delivery(policy=RetryPolicy(3, 5, rules=[ErrorRule(Exception, "drop")]))
    head.chained = True

    replace(batch, destinations={"kafka": slow}).deliver([head])
    slow.outcome.set_result(Rejected("too large"))

    assert (stored[-1].chained, gone) == (True, [])
    (result,) = batch.deliver([Delivery.decode(head.task_id, stored[-1].encode())])
    assert (result.end, gone) == (End.DROPPED, [([head.task_id], False)])
