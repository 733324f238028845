"""The options of a retry policy: kinds of delays, limits, jitter, budget, and their wire form."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery import ErrorRule, InvalidSettingError, RetryAfter, RetryPolicy
from rebound_celery.errors import UnknownVersionError
from rebound_celery.message import codec
from rebound_celery.message.address import HttpAddress
from rebound_celery.message.message import Message
from rebound_celery.policy import MAX_DELAY_S, DeadLetter, Decision, Failure, Retry, decide

NOW_MS = 1_700_000_000_000


def delays_of(policy: RetryPolicy, *, draw: float = 0.5) -> list[float]:
    """The delay after each failed attempt in seconds, until the policy gives up."""
    delays = []
    for attempt in range(1, 200):
        decision = decide(policy, attempt, None, first_failed_at_ms=NOW_MS, now_ms=NOW_MS, draw=lambda: draw)
        if not isinstance(decision, Retry):
            return delays
        delays.append((decision.due_ms - NOW_MS) / 1000)
    raise AssertionError("it never gives up")


@pytest.mark.parametrize(
    ("policy", "delays_s"),
    [
        (RetryPolicy(4, 5, "exponential"), [5, 10, 20, 40]),
        (RetryPolicy(4, 5, "linear"), [5, 10, 15, 20]),
        (RetryPolicy(3, 5, "constant"), [5, 5, 5]),
        (RetryPolicy(delays=[0, 1.5, 3600]), [0, 1.5, 3600]),
        (RetryPolicy(kind="list", delays=(1, 2)), [1, 2]),
        (RetryPolicy(5, delays=[1, 60]), [1, 60, 60, 60, 60]),
        (RetryPolicy(1, delays=[1, 60]), [1]),
        (RetryPolicy(5, 5, max_delay=12.5), [5, 10, 12.5, 12.5, 12.5]),
        (RetryPolicy(3, 10, "linear", max_delay=15), [10, 15, 15]),
        (RetryPolicy(delays=[1, 100], max_delay=30), [1, 30]),
        (RetryPolicy(2, 8, jitter="none"), [8, 16]),
    ],
)
def test_each_kind_has_its_delays(policy: RetryPolicy, delays_s: list[float]) -> None:
    assert delays_of(policy) == delays_s


@pytest.mark.parametrize(
    ("jitter", "draw", "delays_s"),
    [
        ("full", 0.0, [0, 0]),
        ("full", 0.25, [2, 4]),
        ("full", 1.0, [8, 16]),
        ("equal", 0.0, [4, 8]),
        ("equal", 0.5, [6, 12]),
        ("equal", 1.0, [8, 16]),
    ],
)
def test_jitter_takes_a_part_of_the_delay(jitter: Any, draw: float, delays_s: list[float]) -> None:
    assert delays_of(RetryPolicy(2, 8, jitter=jitter), draw=draw) == delays_s


def test_a_seeded_source_gives_the_same_delays_again() -> None:
    policy = RetryPolicy(100, 1, "constant", jitter="full")

    def dues(seed: int) -> list[Decision]:
        draw = random.Random(seed).random
        return [decide(policy, n, None, first_failed_at_ms=None, now_ms=NOW_MS, draw=draw) for n in range(1, 101)]

    assert dues(1) == dues(1)
    assert len({str(decision) for decision in dues(1)}) > 50
    assert dues(1) != dues(2)


def test_what_a_destination_asks_for_is_a_least_delay_that_jitter_does_not_shorten() -> None:
    failure = Failure("E", "busy", retry_after_s=30)

    decision = decide(RetryPolicy(jitter="full"), 1, failure, first_failed_at_ms=None, now_ms=NOW_MS, draw=lambda: 0.01)

    assert decision == Retry(NOW_MS + 30_000, 2)


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [(0, Retry(NOW_MS + 10_000, 3)), (50, Retry(NOW_MS + 10_000, 3)), (50.001, DeadLetter("budget-exhausted"))],
)
def test_a_retry_that_would_be_due_after_the_budget_is_a_dead_letter(age_s: float, expected: Decision) -> None:
    policy = RetryPolicy(9, 5, budget=60)

    assert decide(policy, 2, None, first_failed_at_ms=NOW_MS - round(age_s * 1000), now_ms=NOW_MS) == expected


def test_a_delay_that_a_handler_asks_for_is_within_the_limits_too() -> None:
    def after(policy: RetryPolicy, seconds: float) -> Decision:
        return decide(
            policy, 1, None, first_failed_at_ms=NOW_MS, now_ms=NOW_MS, error=RetryAfter(seconds), draw=lambda: 0.0
        )

    assert after(RetryPolicy(), 0.25) == Retry(NOW_MS + 250, 2)
    assert after(RetryPolicy(jitter="full"), 30) == Retry(NOW_MS + 30_000, 2)
    assert after(RetryPolicy(max_delay=20), 365 * 86_400) == Retry(NOW_MS + 20_000, 2)
    assert after(RetryPolicy(budget=60), 61) == DeadLetter("budget-exhausted")
    assert after(RetryPolicy(max_retries=0), 1) == DeadLetter("retries-exhausted")


seconds = st.integers(0, 10_000) | st.floats(0, 10_000)
rules = st.builds(
    ErrorRule, st.sampled_from(["ValueError", ("OSError", "a.b.C")]), st.just("retry"), st.none() | seconds
) | st.builds(ErrorRule, st.just("KeyError"), st.sampled_from(["drop", "dead-letter"]))


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    """Any policy that the constructor takes."""
    options: dict[str, Any] = {
        "jitter": draw(st.sampled_from(["none", "full", "equal"])),
        "quick_retries": draw(st.integers(0, 10)),
        "quick_delay": draw(st.floats(0, 1)),
        "first_delay": draw(st.none() | seconds),
        "rules": draw(st.lists(rules, max_size=3)),
    }
    kind = draw(st.sampled_from(["exponential", "linear", "constant", "list"]))
    if kind == "list":
        options["delays"] = draw(st.lists(seconds, min_size=1, max_size=20))
        if draw(st.booleans()):
            options["max_retries"] = draw(st.integers(0, 100))
        options["max_delay"] = draw(st.none() | st.floats(0, 20_000))
    else:
        base = draw(st.floats(1, 3600))
        options |= {"kind": kind, "base_delay": base, "max_retries": draw(st.integers(0, 100))}
        options["max_delay"] = draw(st.none() | st.floats(base, 1e6))
    unlimited = RetryPolicy(**options)
    of_rules = [min(rule.delay or 0, unlimited.longest_delay_s) for rule in unlimited.rules]
    options["budget"] = draw(st.none() | st.floats(max(unlimited.delay_s(1), *of_rules, 0), MAX_DELAY_S))
    return RetryPolicy(**options)


@given(
    policy=policies(),
    attempt=st.integers(1, 101),
    retry_after_s=st.none() | st.floats(),
    asked_s=st.none() | st.floats(0, MAX_DELAY_S),
    age_ms=st.none() | st.integers(0, 10**10),
    chance=st.floats(0, 1),
)
def test_no_delay_is_negative_above_the_limit_or_past_the_budget(
    policy: RetryPolicy,
    attempt: int,
    retry_after_s: float | None,
    asked_s: float | None,
    age_ms: int | None,
    chance: float,
) -> None:
    began_ms = NOW_MS if age_ms is None else NOW_MS - age_ms
    decision = decide(
        policy,
        attempt,
        Failure("E", "no", retry_after_s=retry_after_s),
        first_failed_at_ms=None if age_ms is None else began_ms,
        now_ms=NOW_MS,
        error=ValueError() if asked_s is None else RetryAfter(asked_s),
        draw=lambda: chance,
    )

    if isinstance(decision, Retry):
        delay_ms = decision.due_ms - NOW_MS
        assert 0 <= delay_ms <= MAX_DELAY_S * 1000
        assert policy.max_delay is None or delay_ms <= policy.max_delay * 1000
        assert policy.budget is None or decision.due_ms - began_ms <= policy.budget * 1000
        assert decision.attempt == attempt + 1 <= policy.attempts
    else:
        assert isinstance(decision, DeadLetter)
        assert decision.reason in ("retries-exhausted", "budget-exhausted")


# What cannot be used


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kind": "fibonacci"}, "kind='fibonacci' cannot be used: it is one of 'exponential', 'linear'"),
        ({"kind": None}, "kind=None cannot be used"),
        ({"kind": "list"}, "delays=[] cannot be used: the kind 'list' has delays, and no other kind has"),
        ({"kind": "linear", "delays": [1]}, "delays=[1] cannot be used"),
        ({"delays": [5, -1]}, "delays=-1 cannot be used: it must be a number of seconds from 0 to 315360000"),
        ({"delays": [float("nan")]}, "delays=nan cannot be used"),
        ({"delays": "123"}, "delays='123' cannot be used: give a list of numbers of seconds"),
        ({"delays": []}, "delays=[] cannot be used: give a number of seconds for each retry; for no retries, max_retr"),
        ({"delays": 5}, "delays=5 cannot be used"),
        ({"delays": [1] * 101}, "give at most 100, one for each retry"),
        ({"delays": [1], "base_delay": 7}, "base_delay=7 cannot be used: a list of delays has no base_delay"),
        ({"max_delay": -1}, "max_delay=-1 cannot be used: it must be a number of seconds from 0"),
        ({"max_delay": 4}, "max_delay=4 cannot be used: base_delay is longer: 5 s"),
        ({"max_delay": float("inf")}, "max_delay=inf cannot be used"),
        ({"jitter": "some"}, "jitter='some' cannot be used: it is one of 'none', 'full', 'equal'"),
        ({"jitter": True}, "jitter=True cannot be used"),
        ({"budget": 4.9}, "budget=4.9 cannot be used: it is shorter than the delay before the first retry, 5 s"),
        ({"budget": 1, "delays": [2]}, "budget=1 cannot be used: it is shorter than"),
        ({"budget": "60"}, "budget='60' cannot be used"),
        ({"quick_retries": 11}, "quick_retries=11 cannot be used: it must be a whole number from 0 to 10"),
        ({"quick_retries": 1.0}, "quick_retries=1.0 cannot be used"),
        ({"quick_delay": 1.1}, "quick_delay=1.1 cannot be used: it must be a number of seconds from 0 to 1"),
        ({"first_delay": -0.1}, "first_delay=-0.1 cannot be used"),
        ({"first_delay": 365 * 86_400 + 1}, "first_delay=31536001 cannot be used"),
        ({"rules": {"ValueError": "drop"}}, "rules={'ValueError': 'drop'} cannot be used: give a list of ErrorRule"),
        ({"rules": ["ValueError"]}, "rules=['ValueError'] cannot be used: give a list of ErrorRule"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_with_field_value_and_limits(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        RetryPolicy(**options)

    assert text in str(refused.value)


def test_a_budget_does_not_count_where_there_is_no_retry() -> None:
    assert RetryPolicy(max_retries=0, budget=1).attempts == 1


# The wire form


def test_options_that_are_not_set_cost_no_byte() -> None:
    plain = {"kind": "exponential", "max_retries": 3, "base_delay": 5}

    assert RetryPolicy().to_wire() == plain
    assert RetryPolicy(max_delay=None, jitter="none", quick_delay=0.0, rules=[]).to_wire() == plain


def test_a_list_has_no_base_delay_in_its_wire_form() -> None:
    assert RetryPolicy(delays=[1, 2.0, 2.5]).to_wire() == {"kind": "list", "max_retries": 3, "delays": [1, 2, 2.5]}


@given(policies())
def test_a_policy_is_read_from_a_stored_message_as_it_was_written(policy: RetryPolicy) -> None:
    message = Message("m", b"v", HttpAddress("http://r/"), 1, policy)

    assert RetryPolicy.from_wire(policy.to_wire()) == policy
    assert RetryPolicy.from_wire(msgspec.msgpack.decode(msgspec.msgpack.encode(policy.to_wire()))) == policy
    assert codec.decode("m", codec.encode(message))[0].policy == policy
    assert len({policy, RetryPolicy.from_wire(policy.to_wire())}) == 1


@pytest.mark.parametrize(
    "wire",
    [
        {"kind": "exponential", "max_retries": 3, "base_delay": 5, "jitter": "decorrelated"},
        {"kind": "fibonacci", "max_retries": 3, "base_delay": 5},
        {
            "kind": "constant",
            "max_retries": 3,
            "base_delay": 5,
            "rules": [{"error": "ValueError", "then": "park"}],
        },
    ],
)
def test_what_a_later_version_may_do_says_so(wire: dict[str, Any]) -> None:
    with pytest.raises(UnknownVersionError, match="a later version wrote"):
        RetryPolicy.from_wire(wire)


def test_an_option_of_a_rule_of_a_later_version_is_written_back() -> None:
    wire = {
        "kind": "linear",
        "max_retries": 3,
        "base_delay": 5,
        "rules": [{"error": "ValueError", "then": "drop", "share": 0.5}],
    }

    assert RetryPolicy.from_wire(wire).to_wire() == wire


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "list"},
        {"kind": "list", "delays": []},
        {"kind": "list", "delays": [-1]},
        {"jitter": 3},
        {"rules": {}},
        {"rules": [3]},
        {"rules": [{"then": "drop"}]},
        {"rules": [{"error": "ValueError"}]},
        {"rules": [{"error": "not a name", "then": "drop"}]},
        {"budget": 1},
        {"max_delay": "5"},
    ],
)
def test_a_damaged_policy_is_a_value_error(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        RetryPolicy.from_wire({"kind": "exponential", "max_retries": 3, "base_delay": 5} | change)


def test_a_policy_with_other_limits_keeps_its_options() -> None:
    policy = RetryPolicy(3, 5, "linear", jitter="full")

    assert policy.with_limits(None, None) is policy
    assert policy.with_limits(7, None) == RetryPolicy(7, 5, "linear", jitter="full")
    assert policy.with_limits(0, 2) == RetryPolicy(0, 2, "linear", jitter="full")
    for base_delay in (2, 5):
        with pytest.raises(InvalidSettingError, match="the policy is a list of delays, which has no base_delay"):
            RetryPolicy(delays=[1]).with_limits(None, base_delay)
