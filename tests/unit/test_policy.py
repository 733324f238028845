"""When a failed attempt is tried again, and which policies are refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery.errors import InvalidSettingError
from rebound_celery.policy import MAX_DELAY_S, DeadLetter, Retry, RetryPolicy

NOW_MS = 1_700_000_000_000


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
    decisions = [policy.decide(attempt, NOW_MS) for attempt in range(1, policy.attempts + 1)]

    retries = [Retry(NOW_MS + round(delay * 1000), attempt) for attempt, delay in enumerate(delays_s, start=2)]
    assert decisions == [*retries, DeadLetter("retries-exhausted")]


def test_the_handler_is_called_once_more_than_there_are_retries() -> None:
    assert [RetryPolicy(max_retries=n).attempts for n in (0, 1, 100)] == [1, 2, 101]


def test_an_attempt_beyond_the_policy_is_a_dead_letter_too() -> None:
    """A policy that was made smaller meets messages of the larger one."""
    assert RetryPolicy(max_retries=2).decide(50, NOW_MS) == DeadLetter("retries-exhausted")


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
    decision = RetryPolicy(max_retries, base_delay).decide(attempt, NOW_MS)

    if attempt > max_retries:
        assert decision == DeadLetter("retries-exhausted")
    else:
        assert isinstance(decision, Retry)
        assert decision.attempt == attempt + 1
        assert round(base_delay * 1000) <= decision.due_ms - NOW_MS <= MAX_DELAY_S * 1000
        assert datetime.fromtimestamp(decision.due_ms / 1000, UTC).year < 2100


def test_the_delay_of_attempt_100_is_ten_years_not_an_overflow() -> None:
    assert RetryPolicy(100, 3600).delay_s(100) == MAX_DELAY_S == 10 * 365 * 86_400
