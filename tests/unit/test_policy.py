"""The retry policy: the due time after a failed attempt, and the policies that are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery.errors import InvalidSettingError, UnknownVersionError
from rebound_celery.policy import (
    MAX_DELAY_S,
    REJECTED,
    RETRIES_EXHAUSTED,
    DeadLetter,
    Decision,
    Failure,
    Retry,
    RetryPolicy,
    decide,
    outage_delay_s,
)

NOW_MS = 1_700_000_000_000


def after(policy: RetryPolicy, attempt: int, failure: Failure | None = None) -> Decision:
    return decide(policy, attempt, failure, first_failed_at_ms=None, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("policy", "delays_s"),
    [
        (RetryPolicy(3, 5), [5, 10, 20]),
        (RetryPolicy(1, 3600), [3600]),
        (RetryPolicy(4, 1.5), [1.5, 3, 6, 12]),
        (RetryPolicy(0, 5), []),
        (RetryPolicy(), [5, 10, 20]),
    ],
)
def test_delays_double_until_the_retries_are_spent_and_then_it_is_a_dead_letter(
    policy: RetryPolicy, delays_s: list[float]
) -> None:
    decisions = [after(policy, attempt) for attempt in range(1, policy.attempts + 1)]

    retries = [Retry(NOW_MS + round(delay * 1000), attempt) for attempt, delay in enumerate(delays_s, start=2)]
    assert decisions == [*retries, DeadLetter("retries-exhausted")]


def test_the_handler_is_called_once_more_than_there_are_retries() -> None:
    assert [RetryPolicy(max_retries=n).attempts for n in (0, 1, 100)] == [1, 2, 101]


def test_an_attempt_beyond_the_policy_is_a_dead_letter_too() -> None:
    """A policy that was made smaller meets messages of the larger one."""
    assert after(RetryPolicy(max_retries=2), 50) == DeadLetter("retries-exhausted")


@pytest.mark.parametrize("value", [101, -1, 2.5, 3.0, "3", True, False, None, float("nan"), [3]])
def test_max_retries_outside_of_its_limits_are_refused_with_field_value_and_limits(value: Any) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        RetryPolicy(max_retries=value)

    text = str(refused.value)
    assert "max_retries" in text
    assert repr(value) in text
    assert "0 to 100" in text


@pytest.mark.parametrize(
    "value",
    [0, 0.999, -1, 3601, 3600.01, float("nan"), float("inf"), -float("inf"), 10**400, "5", None, True, False, 1j],
)
def test_base_delay_outside_of_its_limits_is_refused_with_field_value_and_limits(value: Any) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        RetryPolicy(base_delay=value)

    text = str(refused.value)
    assert "base_delay" in text
    assert repr(value) in text
    assert "1 to 3600" in text


@pytest.mark.parametrize(("max_retries", "base_delay"), [(0, 1), (100, 3600), (100, 1.0), (0, 3600.0)])
def test_the_limits_themselves_are_allowed(max_retries: int, base_delay: float) -> None:
    policy = RetryPolicy(max_retries, base_delay)

    assert (policy.max_retries, policy.base_delay) == (max_retries, base_delay)


@given(
    max_retries=st.integers(0, 100),
    base_delay=st.floats(1, 3600),
    attempt=st.integers(1, 101),
)
def test_no_delay_is_shorter_than_the_base_longer_than_the_cap_or_beyond_what_a_date_holds(
    max_retries: int, base_delay: float, attempt: int
) -> None:
    decision = after(RetryPolicy(max_retries, base_delay), attempt)

    if attempt > max_retries:
        assert decision == DeadLetter("retries-exhausted")
    else:
        assert isinstance(decision, Retry)
        assert decision.attempt == attempt + 1
        assert round(base_delay * 1000) <= decision.due_ms - NOW_MS <= MAX_DELAY_S * 1000
        assert datetime.fromtimestamp(decision.due_ms / 1000, UTC).year < 2100


def test_the_delay_of_attempt_100_is_ten_years_not_an_overflow() -> None:
    assert RetryPolicy(100, 3600).delay_s(100) == MAX_DELAY_S == 10 * 365 * 86_400


def test_a_permanent_failure_is_a_dead_letter_however_many_retries_are_left() -> None:
    assert after(RetryPolicy(100, 1), 1, Failure("E", "no", permanent=True)) == DeadLetter(REJECTED)


@pytest.mark.parametrize(
    ("retry_after_s", "delay_s"),
    [
        (None, 5),
        (0, 5),
        (-1, 5),
        (4.9, 5),
        (7.5, 7.5),
        (1e12, MAX_DELAY_S),
        (float("inf"), MAX_DELAY_S),
        (float("nan"), 5),
    ],
)
def test_a_destination_that_asks_for_a_longer_pause_gets_it(retry_after_s: float | None, delay_s: float) -> None:
    decision = after(RetryPolicy(3, 5), 1, Failure("E", "busy", retry_after_s=retry_after_s))

    assert decision == Retry(NOW_MS + round(delay_s * 1000), 2)


def test_a_pause_that_is_asked_for_gives_no_further_retry() -> None:
    assert after(RetryPolicy(3, 5), 4, Failure("E", "busy", retry_after_s=60)) == DeadLetter(RETRIES_EXHAUSTED)


failures = st.none() | st.builds(
    Failure, st.text(), st.text(), permanent=st.booleans(), retry_after_s=st.none() | st.floats()
)


@given(
    policy=st.builds(RetryPolicy, st.integers(0, 100), st.floats(1, 3600)),
    attempt=st.integers(1, 101),
    failure=failures,
    now_ms=st.integers(0, 2**42),
    age_ms=st.none() | st.integers(0, 2**42),
)
def test_a_decision_is_a_later_retry_or_a_reason_and_always_the_same(
    policy: RetryPolicy, attempt: int, failure: Failure | None, now_ms: int, age_ms: int | None
) -> None:
    first = None if age_ms is None else now_ms - age_ms

    decision = decide(policy, attempt, failure, first_failed_at_ms=first, now_ms=now_ms)

    assert decision == decide(policy, attempt, failure, first_failed_at_ms=first, now_ms=now_ms)
    if failure is not None and failure.permanent:
        assert decision == DeadLetter(REJECTED)
    elif attempt > policy.max_retries:
        assert decision == DeadLetter(RETRIES_EXHAUSTED)
    else:
        assert isinstance(decision, Retry)
        assert decision.attempt == attempt + 1
        assert policy.delay_s(attempt) * 1000 - 1 <= decision.due_ms - now_ms <= MAX_DELAY_S * 1000


@given(st.integers(0, 10**6), st.floats(0.01, 60), st.floats(0.01, 3600))
def test_the_delay_of_an_outage_doubles_up_to_its_limit(tries: int, first_s: float, longest_s: float) -> None:
    delay = outage_delay_s(tries, first_s, longest_s)

    assert delay == longest_s or (delay < longest_s and delay >= first_s)
    assert delay <= outage_delay_s(tries + 1, first_s, longest_s)


def test_the_delays_of_an_outage() -> None:
    assert [outage_delay_s(tries, 1, 60) for tries in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


# The wire form of a policy


@given(st.builds(RetryPolicy, st.integers(0, 100), st.floats(1, 3600)))
def test_a_policy_is_read_as_it_was_written(policy: RetryPolicy) -> None:
    assert RetryPolicy.from_wire(policy.to_wire()) == policy


def test_a_policy_is_written_as_a_mapping_with_its_kind() -> None:
    assert RetryPolicy(3, 5.0).to_wire() == {"kind": "exponential", "max_retries": 3, "base_delay": 5}


def test_options_of_a_later_version_are_written_back_and_change_nothing_here() -> None:
    later = {"kind": "exponential", "max_retries": 3, "base_delay": 5, "spread": 0.1, "steps": [{"after": 60}]}

    policy = RetryPolicy.from_wire(later)

    assert policy.to_wire() == later
    assert policy != RetryPolicy(3, 5)
    assert len({policy, RetryPolicy.from_wire(later), RetryPolicy(3, 5)}) == 2
    assert after(policy, 1) == after(RetryPolicy(3, 5), 1)


def test_a_kind_of_policy_that_a_later_version_knows_says_so() -> None:
    with pytest.raises(UnknownVersionError, match="a later version wrote a retry policy of the kind 'fixed'"):
        RetryPolicy.from_wire({"kind": "fixed", "delays": [1, 2, 3]})


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        {},
        {"kind": None},
        {"kind": 7},
        {"max_retries": 3, "base_delay": 5},
        {"kind": "exponential"},
        {"kind": "exponential", "max_retries": 3},
        {"kind": "exponential", "max_retries": "3", "base_delay": 5},
        {"kind": "exponential", "max_retries": 3, "base_delay": float("nan")},
        {"kind": "exponential", "max_retries": 101, "base_delay": 5},
    ],
)
def test_what_is_no_policy_is_refused(wire: Any) -> None:
    with pytest.raises(ValueError):
        RetryPolicy.from_wire(wire)
