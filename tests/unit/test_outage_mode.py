"""What a worker tells circuit breakers, and what it does by their answers: without Redis."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from rebound_celery import Settings
from rebound_celery.delivery.batch import Batch
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.delivery.lanes import RatedLanes
from rebound_celery.delivery.outage_mode import OutageMode
from rebound_celery.delivery.result import End
from rebound_celery.destinations import Delivered, Failed, Held, Outcome, Rejected, Unavailable, Underway
from rebound_celery.limits import BreakerOptions
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.schedule.port import Breaker, BreakerChange, BreakerRules, LaneReport
from tests.scheduling import keep_in
from tests.unit.test_delivery_batch import NOW_MS, Answers, make_delivery

LANE = "kafka:orders"
SETTINGS = Settings(breaker=BreakerOptions())


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now_ms(self) -> int:
        return NOW_MS

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing waits here")


class Schedule:
    """Answers reports as it is told, and keeps them."""

    def __init__(self) -> None:
        self.reports: list[LaneReport] = []
        self.answer: BreakerChange | Exception = BreakerChange("", None, NOW_MS)
        self.opened = 0

    def report(self, reports: Iterable[LaneReport], _rules: BreakerRules) -> list[BreakerChange]:
        if isinstance(self.answer, Exception):
            raise self.answer
        reports = list(reports)
        self.reports += reports
        return [self.answer for _ in reports]

    @contextmanager
    def open(self) -> Iterator[Any]:
        self.opened += 1
        yield self


def breaker(state: str = "open", until_ms: int | None = NOW_MS + 60_000) -> Breaker:
    return Breaker(
        LANE,
        state,
        NOW_MS,
        until_ms,
        by_hand=False,
        failed=20,
        total=25,
        interval_s=5.0,
        drain_rate=100.0,
        error="away",
    )


class Fixture:
    """A batch with circuit breakers over a schedule that the test answers for."""

    def __init__(self) -> None:
        self.clock, self.schedule = Clock(), Schedule()
        self.outage_mode = OutageMode(lambda: SETTINGS, RatedLanes(lambda: None), self.schedule.open, self.clock)
        self.stored: list[Delivery] = []
        self.kafka = Answers([Delivered("kafka:orders[0]@1")])

    def deliver(self, deliveries: Sequence[Delivery], *outcomes: Outcome | Underway) -> list[End]:
        self.stored.clear()
        self.kafka.outcomes = list(outcomes) or self.kafka.outcomes
        destinations = {"kafka": self.kafka, "http": self.kafka, "dead-set": Answers([Delivered("dead-set")])}
        batch = Batch(
            destinations,
            SETTINGS,
            keep_in(self.stored),
            "celery@here",
            self.clock,
            lambda task_ids, *, dead: None,
            outage_mode=self.outage_mode,
        )
        return [result.end for result in batch.deliver(deliveries)]

    def says(self, event: str, state: Breaker | None) -> None:
        self.schedule.answer = BreakerChange(event, state, NOW_MS)


@pytest.fixture
def fix() -> Fixture:
    return Fixture()


def test_a_healthy_lane_is_reported_once_a_second(fix: Fixture) -> None:
    for _ in range(10):
        fix.deliver([make_delivery(), make_delivery()], Delivered("there"))
    assert [report.answered for report in fix.schedule.reports] == [2]

    fix.clock.seconds += 1
    fix.deliver([make_delivery()])

    assert fix.schedule.reports[1:] == [LaneReport(LANE, 19, 0, "")]
    assert fix.schedule.opened == 1, "one connection for all reports"


def test_a_failure_is_reported_at_once_with_what_was_answered_before(fix: Fixture) -> None:
    fix.deliver([make_delivery()])
    fix.deliver([make_delivery()])

    fix.deliver([make_delivery(), make_delivery()], Unavailable("no brokers"), Delivered("there"))

    assert fix.schedule.reports[1:] == [LaneReport(LANE, 2, 1, "no brokers")]


def test_a_lane_whose_breaker_is_not_closed_is_reported_with_each_batch(fix: Fixture) -> None:
    fix.says("draining", breaker("draining", None))
    fix.deliver([make_delivery()])
    fix.deliver([make_delivery()])

    assert len(fix.schedule.reports) == 2


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [
        (Unavailable("away"), 1),
        (Failed("answered 503"), 1),
        (Failed("answered 404", is_about_message=True), 0),
        (Rejected("too large"), 0),
    ],
)
def test_what_is_about_the_message_is_no_failure_of_the_destination(
    fix: Fixture, outcome: Outcome, failed: int
) -> None:
    fix.deliver([make_delivery()], outcome)

    assert (fix.schedule.reports[0].failed, fix.schedule.reports[0].answered) == (failed, 1 - failed)


def test_the_dead_set_in_redis_has_no_breaker(fix: Fixture) -> None:
    fix.deliver([make_delivery(reason="retries-exhausted", dead_destination=DEAD_SET)])

    assert fix.schedule.reports == []


@pytest.mark.parametrize("outcome", [Unavailable("away"), Failed("answered 503", retry_after_s=900.0)])
def test_what_opens_the_breaker_uses_up_no_attempt_and_does_not_count_as_a_try(fix: Fixture, outcome: Outcome) -> None:
    fix.says("opened", breaker())

    assert fix.deliver([make_delivery(attempt=4, tries=7)], outcome) == [End.AGAIN]

    (held,) = fix.stored
    assert (held.message.attempt, held.message.history, held.tries) == (4, (), 7)
    assert held.due_ms == NOW_MS + 1_000
    assert held.message.reason is None


def test_a_message_that_is_at_fault_itself_fails_as_usual_while_the_breaker_opens(fix: Fixture) -> None:
    fix.says("opened", breaker())
    deliveries = [make_delivery(attempt=1), make_delivery(attempt=1)]

    fix.deliver(deliveries, Unavailable("away"), Failed("answered 404", is_about_message=True))

    assert [one.message.attempt for one in fix.stored] == [1, 2]


def test_what_was_claimed_before_the_breaker_opened_is_not_sent(fix: Fixture) -> None:
    other = make_delivery(destination=KafkaAddress("payments"))
    fix.says("opened", breaker())
    fix.deliver([make_delivery()], Unavailable("away"))
    fix.kafka.sent.clear()

    ends = fix.deliver([make_delivery(), other], Delivered("there"))

    assert ends == [End.AGAIN, End.DONE]
    assert [message.destination for message in fix.kafka.sent] == [KafkaAddress("payments")]
    assert (fix.stored[0].tries, fix.stored[0].due_ms) == (0, NOW_MS + 1_000)


@pytest.mark.parametrize(("until_ms", "heard_s"), [(NOW_MS + 60_000, 2.0), (NOW_MS + 500, 0.5), (None, 2.0)])
def test_an_open_breaker_is_remembered_until_the_probe_and_for_two_seconds_at_most(
    fix: Fixture, until_ms: int | None, heard_s: float
) -> None:
    """The next message may be the probe; and somebody may close the breaker by hand."""
    fix.says("", breaker("open", until_ms))
    fix.deliver([make_delivery()], Unavailable("away"))

    fix.clock.seconds = heard_s - 0.01
    assert fix.outage_mode.held([LANE]) == {LANE}
    fix.clock.seconds = heard_s
    assert fix.outage_mode.held([LANE]) == set()


def test_while_redis_is_away_deliveries_go_on_without_breakers(fix: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    fix.schedule.answer = RedisConnectionError("refused")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert fix.deliver([make_delivery()], Unavailable("no brokers")) == [End.AGAIN]
    assert fix.stored[0].tries == 1, "an outage as without breakers"
    assert sum("circuit breakers are not told" in record.message for record in caplog.records) == 1

    fix.says("", None)
    fix.deliver([make_delivery()], Unavailable("no brokers"))
    assert fix.schedule.reports == [LaneReport(LANE, 0, 4, "no brokers")], "what was not told is told later"


def test_what_a_report_changes_is_logged_with_the_lane(fix: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    fix.says("opened", breaker())
    fix.deliver([make_delivery()], Unavailable("no brokers"))
    fix.clock.seconds = 10
    fix.says("probe-failed", breaker())
    fix.deliver([make_delivery()], Unavailable("no brokers"))
    fix.clock.seconds = 20
    fix.says("draining", breaker("draining", None))
    fix.deliver([make_delivery()], Delivered("there"))
    fix.says("closed", None)
    fix.deliver([make_delivery()], Delivered("there"))

    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("circuit breaker")]
    assert told == [
        "circuit breaker of kafka:orders opened: 20 of 25 deliveries failed; the next probe is in 5.0 s: no brokers",
        "circuit breaker of kafka:orders stays open: the probe failed; the next probe is in 5.0 s: no brokers",
        "circuit breaker of kafka:orders: the probe was delivered; the lane drains at 100 messages a second",
        "circuit breaker of kafka:orders closed",
    ]


def test_lanes_of_urls_are_those_of_their_hosts(fix: Fixture) -> None:
    fix.deliver([make_delivery(destination=HttpAddress("https://shop.example/a"))])

    assert fix.schedule.reports[0].lane == "http:shop.example:443"


def test_what_its_destination_holds_is_neither_a_success_nor_a_failure(fix: Fixture) -> None:
    """The host is busy, or the worker stops."""
    fix.deliver([make_delivery()], Held("earlier requests are still running", 1.0))

    assert fix.schedule.reports == []


def test_a_message_that_is_moved_to_the_lane_of_its_endpoint_is_no_probe_any_more(fix: Fixture) -> None:
    fix.says("", breaker("probing"))
    fix.deliver([make_delivery()], Held("the endpoint is disabled", 0.0, "http:https://shop.example/a"))

    assert fix.schedule.reports == [LaneReport(LANE, 0, 0, "")]
    assert fix.stored[0].lane == "http:https://shop.example/a"


def test_what_has_no_outcome_yet_is_reported_when_it_ends_and_not_again_when_it_is_settled(fix: Fixture) -> None:
    future: Future[Outcome] = Future()
    assert fix.deliver([make_delivery()], Underway("no answer yet", 30.0, future)) == [End.AGAIN]
    assert fix.schedule.reports == []

    future.set_result(Failed("answered 503"))
    assert fix.schedule.reports == [LaneReport(LANE, 0, 1, "answered 503")]
    ended = fix.stored[-1]
    assert (ended.ended, ended.lane) == (Failed("answered 503"), "ended")

    fix.deliver([ended])
    assert len(fix.schedule.reports) == 1
    assert (fix.stored[0].message.attempt, fix.stored[0].lane) == (3, LANE)


def test_what_ends_with_a_failure_while_the_breaker_is_open_uses_up_no_attempt(fix: Fixture) -> None:
    future: Future[Outcome] = Future()
    fix.deliver([make_delivery(tries=7)], Underway("no answer yet", 30.0, future))

    fix.says("opened", breaker())
    future.set_result(Failed("timed out"))

    held = fix.stored[-1]
    assert (held.ended, held.lane, held.message.attempt, held.tries) == (None, LANE, 2, 7)
    assert held.due_ms == NOW_MS + 1_000


def test_what_has_ended_is_settled_though_the_breaker_is_open(fix: Fixture) -> None:
    """It was delivered before, and would only be delivered twice."""
    fix.says("opened", breaker())
    fix.deliver([make_delivery()], Unavailable("away"))
    ended = make_delivery()
    ended.ended = Delivered("https://shop.example/a answered 204")

    assert fix.deliver([ended]) == [End.DONE]
