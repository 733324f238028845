"""When a consumer pauses because most of its records fail for the same reason, and when it goes on."""

from __future__ import annotations

from typing import Any

import pytest

from rebound_celery import DeadLetter, Drop
from rebound_celery.consumer import ConsumerConfig
from rebound_celery.consumer.failure_pause import FailurePause, FailurePauseOptions
from rebound_celery.errors import InvalidSettingError

OPTIONS = FailurePauseOptions(share=0.5, count=4, window=10, pause=2, max_pause=5)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now_ms(self) -> int:
        return 0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing waits here")


class Fixture:
    """A consumer's handler that fails as told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pause = FailurePause(OPTIONS, "g", self.clock)
        self._error: Exception | None = None

        def handler(_record: Any) -> str:
            if self._error is not None:
                raise self._error
            return "value"

        self._handler = self.pause.watch(handler)

    def call(self, *errors: Exception | None) -> None:
        record: Any = None
        for error in errors:
            self._error = error
            if error is None:
                assert self._handler(record) == "value"
            else:
                with pytest.raises(type(error)):
                    self._handler(record)

    def is_closed(self, *, is_busy: bool = False) -> bool:
        return self.pause.closes(is_busy=is_busy)

    def probe(self, error: Exception | None) -> None:
        assert not self.is_closed()
        self.pause.fetched(1)
        assert self.is_closed(is_busy=True), "one record at a time"
        self.call(error)


@pytest.fixture
def fix() -> Fixture:
    return Fixture()


AWAY = ConnectionError("no database")
OTHER = ValueError("not a number")


@pytest.mark.parametrize(
    ("calls", "closed"),
    [
        ([AWAY] * 3, False),
        ([AWAY] * 4, True),
        ([OTHER, AWAY] * 3, False),
        ([OTHER, AWAY] * 4, True),
        ([None] * 5 + [AWAY] * 4, False),
        ([None] * 4 + [AWAY] * 4, True),
        ([OTHER] * 3 + [AWAY] * 3, False),
        ([KeyError(), OTHER, AWAY] * 4, False),
    ],
)
def test_it_closes_at_a_share_and_a_number_of_failures_of_one_class(
    fix: Fixture, calls: list[Exception | None], closed: bool
) -> None:
    fix.call(*calls)

    assert fix.is_closed() is closed
    assert (fix.pause.reason is not None) is closed


def test_records_that_the_handler_gives_up_or_drops_are_no_failures(fix: Fixture) -> None:
    fix.call(*[DeadLetter("broken"), Drop("old")] * 10)

    assert not fix.is_closed()


def test_failures_that_are_older_than_the_window_do_not_count(fix: Fixture) -> None:
    for _ in range(20):
        fix.call(AWAY)
        fix.clock.seconds += 4

    assert not fix.is_closed()


def test_after_the_pause_one_record_is_tried_and_its_success_ends_it(
    fix: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    fix.call(*[AWAY] * 4)
    fix.clock.seconds += 1.9
    assert fix.is_closed()

    fix.clock.seconds += 0.2
    fix.probe(None)

    assert not fix.is_closed()
    assert not fix.pause.is_probing
    assert fix.pause.reason is None
    assert [record.getMessage() for record in caplog.records] == [
        "the consumer of group g pauses for 2.0 s: 4 of 4 calls of the handler failed with builtins.ConnectionError",
        "the consumer of group g goes on: a record was handled",
    ]


def test_each_record_that_is_tried_and_fails_doubles_the_pause_up_to_the_longest(fix: Fixture) -> None:
    fix.call(*[AWAY] * 4)
    for pause_s in (2, 4, 5, 5):
        fix.clock.seconds += pause_s - 0.1
        assert fix.is_closed()
        fix.clock.seconds += 0.1
        fix.probe(AWAY)


def test_what_is_in_memory_is_waited_for_but_not_for_ever(fix: Fixture) -> None:
    fix.call(*[AWAY] * 4)
    fix.call(None, AWAY)
    fix.clock.seconds += 3
    assert fix.is_closed(is_busy=True)
    fix.call(None)
    assert fix.is_closed(is_busy=True), "this record was not the one to try"

    fix.clock.seconds += 1.1
    assert not fix.is_closed(is_busy=True), "its handler hangs"


def test_a_record_that_has_no_outcome_is_followed_by_another(fix: Fixture) -> None:
    """It was for another group, or its partition was lost."""
    fix.call(*[AWAY] * 4)
    fix.clock.seconds += 2
    assert not fix.is_closed()
    fix.pause.fetched(1)

    assert not fix.is_closed(is_busy=False)


def config(value: Any) -> ConsumerConfig:
    return ConsumerConfig(group="g", topics="orders", handler=print, failure_pause=value)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (None, None),
        (False, None),
        (True, FailurePauseOptions()),
        ({"count": 5}, FailurePauseOptions(count=5)),
        (FailurePauseOptions(pause=1), FailurePauseOptions(pause=1)),
    ],
)
def test_the_field_takes_one_word_or_options(value: Any, read: FailurePauseOptions | None) -> None:
    assert config(value).failure_pause == read


@pytest.mark.parametrize("value", ["yes", 1, 0.5, []])
def test_a_bad_field_is_refused_with_its_value(value: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"^failure_pause="):
        config(value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("share", value) for value in (0, 1.1, True, "half", float("nan"))],
        *[("count", value) for value in (0, 2.5, True)],
        *[("window", value) for value in (0.5, 3601)],
        *[("pause", value) for value in (0, 3601)],
        *[("max_pause", value) for value in (1, 86_401)],
        ("cuont", 1),
    ],
)
def test_a_bad_option_is_refused_with_its_name_value_and_limits(option: str, value: Any) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        config({option: value})

    assert str(refused.value).startswith(f"failure_pause.{option}={value!r} cannot be used: ")
