"""The account and the summary of the demo, on runs written by hand: they find every fault, and report no others."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pytest
from rich.console import Console

from rebound_celery.demo.account import Account, DeadLetter
from rebound_celery.demo.display import Display, View, print_summary
from rebound_celery.demo.handler import Call
from rebound_celery.demo.plan import Plan
from rebound_celery.demo.summary import faults, summarize
from rebound_celery.policy import RetryPolicy

POLICY = RetryPolicy(max_retries=2, base_delay=1)
ALL_SUCCEED = Plan(failure_rate=0, always_fail_rate=0, max_retries=2)
ALL_DIE = Plan(failure_rate=0, always_fail_rate=1, max_retries=2)
DEAD_HEADERS = {
    "rebound-attempt": "3",
    "rebound-reason": "retries-exhausted",
    "rebound-exception-class": "rebound_celery.demo.handler.PaymentDeclinedError",
}


def call(message_id: str, attempt: int, *, failed: bool, at_ms: int, name: str = "") -> Call:
    return Call(message_id, attempt, failed, at_ms, name or f"{message_id}.{attempt}")


def account_of(calls: Iterable[Call], dead: Iterable[DeadLetter] = ()) -> Account:
    account = Account(POLICY)
    for one in calls:
        account.add_call(one)
    for letter in dead:
        account.add_dead_letter(letter)
    return account


def dying(message_id: str, times: tuple[int, ...] = (0, 1000, 3000)) -> list[Call]:
    return [call(message_id, number, failed=True, at_ms=at_ms) for number, at_ms in enumerate(times, 1)]


def test_a_message_that_succeeds_and_one_that_dies_are_both_finished() -> None:
    account = account_of([call("a", 1, failed=False, at_ms=0), *dying("b")], [DeadLetter("b", DEAD_HEADERS)])

    summary = summarize(account, ALL_SUCCEED, {"a", "b"}, set(), 1.23)

    assert (summary.produced, summary.consumed, summary.succeeded, summary.retried) == (2, 4, 1, 2)
    assert (summary.dead, summary.waiting, summary.lost, summary.duplicates) == (1, 0, 0, 0)
    assert summary.duration_s == 1.2


def test_an_unfinished_message_waits_if_it_is_held_somewhere_and_is_lost_if_not() -> None:
    account = account_of([call("a", 1, failed=True, at_ms=0)])

    summary = summarize(account, ALL_DIE, {"a", "b", "c"}, {"a", "b", "other"}, 1)

    assert (summary.waiting, summary.lost) == (2, 1)
    assert faults(account, ALL_DIE, {"a", "b", "c"}, {"a", "b"}) == [
        "1 messages are lost: c",
        "c is in the topic at no place; the handler had attempts none",
    ]
    assert "a is in the topic at no place; the handler had attempts [1]" in faults(account, ALL_DIE, {"a"}, ())


def test_a_call_that_was_written_down_twice_counts_once_but_two_calls_are_a_duplicate() -> None:
    once = call("a", 1, failed=False, at_ms=0, name="x")
    again = call("a", 1, failed=False, at_ms=5, name="y")

    assert account_of([once, once]).finished_twice() == set()
    assert account_of([once, again]).finished_twice() == {"a"}


def test_dead_twice_and_both_handled_and_dead_are_duplicates() -> None:
    letters = [DeadLetter("a", DEAD_HEADERS), DeadLetter("a", DEAD_HEADERS), DeadLetter("b", DEAD_HEADERS)]

    assert account_of([call("b", 1, failed=False, at_ms=0)], letters).finished_twice() == {"a", "b"}


def test_a_run_as_the_policy_says_has_no_faults() -> None:
    account = account_of(dying("a"), [DeadLetter("a", DEAD_HEADERS)])

    assert faults(account, ALL_DIE, {"a"}, set()) == []


@pytest.mark.parametrize(
    ("calls", "headers", "plan", "expected"),
    [
        (dying("a", (0, 990, 3000)), DEAD_HEADERS, ALL_DIE, "attempt 2 came after 990 ms"),
        (dying("a", (0, 1000, 2900)), DEAD_HEADERS, ALL_DIE, "attempt 3 came after 1900 ms"),
        (dying("a")[:2], DEAD_HEADERS, ALL_DIE, "dead after 2 attempts"),
        ([dying("a")[0], dying("a")[2]], DEAD_HEADERS, ALL_DIE, r"tried as attempts \[1, 3\]"),
        (dying("a"), {**DEAD_HEADERS, "rebound-attempt": "2"}, ALL_DIE, "rebound-attempt='2', not '3'"),
        (dying("a"), {**DEAD_HEADERS, "rebound-reason": "rejected"}, ALL_DIE, "rebound-reason"),
        (dying("a"), {}, ALL_DIE, "rebound-exception-class=None"),
        (dying("a"), DEAD_HEADERS, ALL_SUCCEED, "do not always fail: a"),
    ],
)
def test_what_is_not_as_the_policy_says_is_found(
    calls: list[Call], headers: dict[str, str], plan: Plan, expected: str
) -> None:
    account = account_of(calls, [DeadLetter("a", headers)])

    with pytest.raises(AssertionError, match=expected):
        assert "\n".join(faults(account, plan, {"a"}, set())) == ""


def test_a_message_that_always_fails_must_not_be_handled() -> None:
    account = account_of([call("a", 1, failed=False, at_ms=0)])

    assert "always fail were handled: a" in "\n".join(faults(account, ALL_DIE, {"a"}, set()))


def test_a_retry_is_due_until_it_has_arrived_whichever_topic_is_read_first() -> None:
    account = account_of([call("a", 1, failed=True, at_ms=1000), call("b", 2, failed=True, at_ms=500)])
    account.add_delivery("c", 2, 0, 7)
    account.add_call(call("c", 1, failed=True, at_ms=0))

    assert account.counts().next_due_ms == 2000  # a's; b's second delay is 2 s, and c has arrived
    account.add_delivery("a", 2, 0, 8)
    assert account.counts().next_due_ms == 2500
    account.add_delivery("b", 3, 0, 9)
    assert account.counts().next_due_ms is None
    assert account.counts().redelivered == {2: 2, 3: 1}
    assert account.delivered == 3


def test_the_display_and_the_summary_say_all_the_counts() -> None:
    account = account_of(dying("a"), [DeadLetter("a", DEAD_HEADERS)])
    account.add_delivery("a", 2, 0, 1)
    view = View("producing", 12.0, 3, 2, account.counts(), {"Flower": "http://127.0.0.1:5555"})

    for terminal in (True, False):
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=100)
        with Display(console) as display:
            display.show(view)
        for text in ("producing", "produced", "waiting", "attempt 2: 1", "dead"):
            assert text in out.getvalue()

    out = io.StringIO()
    summary = summarize(account, ALL_DIE, {"a"}, set(), 1)
    print_summary(Console(file=out, width=100), summary, ["[red]odd[/red]"], "Topics left at x: y")
    assert "WRONG: [red]odd[/red]" in out.getvalue()
    assert "1 messages are dead letters; 1 were picked" in out.getvalue()
