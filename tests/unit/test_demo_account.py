"""The account and the summary of the demo, on runs written by hand: they find every fault, and report no others."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Iterable, Sequence

import pytest
from rich.console import Console

from rebound_celery.demo.account import Account, DeadLetter
from rebound_celery.demo.balance import print_balance
from rebound_celery.demo.display import Display, View
from rebound_celery.demo.handler import Call
from rebound_celery.demo.output import DemoConsole, OutputClosedError, say
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


def test_a_retry_waits_until_it_is_due_or_has_arrived_whichever_topic_is_read_first() -> None:
    account = account_of([call("a", 1, failed=True, at_ms=1000), call("b", 2, failed=True, at_ms=500)])
    account.add_delivery("c", 2, 0, 7)
    account.add_call(call("c", 1, failed=True, at_ms=0))

    def due(now_ms: int) -> tuple[int | None, int | None]:
        counts = account.counts({"a", "b", "c"}, now_ms)
        return counts.next_due_ms, counts.last_due_ms

    assert due(1000) == (2000, 2500)  # a's first delay is 1 s, b's second is 2 s, and c has arrived
    assert due(2000) == (2500, 2500)  # a's is being delivered
    account.add_delivery("b", 3, 0, 9)
    assert due(1000) == (2000, 2000)
    account.add_delivery("a", 2, 0, 8)
    assert due(1000) == (None, None)
    assert account.delivered == 3


def test_the_counts_of_the_display_add_up() -> None:
    account = account_of(
        [
            *dying("a"),
            *dying("b")[:2],
            call("c", 1, failed=False, at_ms=0),
            call("unconfirmed", 1, failed=False, at_ms=0),
        ],
        [DeadLetter("a", DEAD_HEADERS)],
    )

    counts = account.counts({"a", "b", "c", "d"}, 0)

    assert counts.produced == counts.succeeded + counts.dead + counts.waiting == 4
    assert (counts.succeeded, counts.dead, counts.waiting) == (1, 1, 2)
    assert counts.calls == {1: 4, 2: 2, 3: 1}
    assert (counts.consumed, counts.first_calls) == (7, 4)


class StoppedClock:
    """It is always 400 ms after the epoch."""

    def now_ms(self) -> int:
        return 400

    def monotonic(self) -> float:
        return 0.4

    def sleep(self, seconds: float) -> None: ...


def shown(view: View, *, live: bool, width: int = 100, notes: Sequence[str] = ()) -> str:
    """What the display writes; on a terminal, its last panel."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=live, width=width, height=24)
    with Display(console, live=live, clock=StoppedClock()) as display:
        for note in notes:
            display.say(note)
        display.show(view)
        if live:
            return out.getvalue().rpartition("\x1b[H")[2]
    return out.getvalue()


def view_of(attempts: int = 3) -> View:
    account = Account(RetryPolicy(max_retries=attempts, base_delay=1))
    for attempt in range(1, attempts + 1):
        account.add_call(call("a", attempt, failed=True, at_ms=0))
    addresses = {"Redis": "redis://127.0.0.1:42085/0", "Flower": "http://127.0.0.1:45555/tasks"}
    return View("producing", 12.0, 30.0, account.counts({"a", "b"}, 400), addresses)


@pytest.mark.parametrize("live", [True, False])
def test_the_display_says_all_the_counts(live: bool) -> None:
    text = shown(view_of(), live=live)

    for words in ("producing, 12 of 30 s", "succeeded", "dead", "waiting", "consumed", "1 first + 2 retries"):
        assert words in text
    assert "1 at attempt 2, 1 at attempt 3" in text


def test_the_panel_counts_down_to_the_next_retry_and_to_the_last() -> None:
    view = view_of()
    assert view.counts is not None
    view.counts = dataclasses.replace(view.counts, next_due_ms=700, last_due_ms=4300)

    assert "in 0.3 s, last in 3.9 s" in shown(view, live=True)


@pytest.mark.parametrize("width", [40, 80])
def test_the_panel_fits_and_breaks_no_address(width: int) -> None:
    view = view_of(attempts=90)
    assert view.counts is not None
    view.counts = dataclasses.replace(view.counts, produced=123_456, next_due_ms=700, last_due_ms=64_300)
    text = re.sub(
        r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown(view, live=True, width=width, notes=["a note", "the worker ended"])
    )

    lines = text.splitlines()
    assert {len(line) for line in lines} == {width}
    assert len(lines) <= 24
    assert lines[0].startswith("╭")
    assert any(line.startswith("╰") for line in lines)
    assert not re.search(r"^[^│╭╰ ]", text, re.MULTILINE)
    for whole in ("http://127.0.0.1:45555/tasks", "redis://127.0.0.1:42085/0", "86 later", "the worker ended"):
        assert any(whole in line for line in lines), whole


@pytest.mark.parametrize("live", [False, True])
def test_addresses_are_shown_with_and_without_a_terminal(live: bool) -> None:
    view = view_of()
    console = Console(file=(out := io.StringIO()), force_terminal=live, width=80, height=24)
    with Display(console, live=live) as display:
        display.add_addresses(view, Kafka="127.0.0.1:9")
        display.add_addresses(view, Redis="redis://127.0.0.1:8/0")
        display.show(view)

    for address in ("127.0.0.1:9", "redis://127.0.0.1:8/0"):
        assert address in out.getvalue()


def test_lines_that_stay_are_written_when_the_panel_ends() -> None:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=True, width=80, height=24), live=True) as display:
        display.show(view_of())
        display.say("the worker ended")

    assert out.getvalue().rpartition("\x1b[?1049l")[2].strip() == "the worker ended"


def test_the_balance_says_all_the_counts_and_what_is_wrong() -> None:
    account = account_of(dying("a"), [DeadLetter("a", DEAD_HEADERS)])
    out = io.StringIO()

    print_balance(
        Console(file=out, width=100),
        summarize(account, ALL_DIE, {"a", "b"}, {"b"}, 1),
        first_calls=1,
        faults=["[red]odd[/red]"],
        kept="Topics left at x: y",
    )

    lines = out.getvalue().splitlines()
    assert "1 are dead letters; 1 were made to fail every time" not in lines  # b was made to as well
    assert "1 are dead letters; 2 were made to fail every time" in lines
    assert "3 times the handler was called: 1 first deliveries + 2 retries" in lines
    assert "1 were waiting for an attempt when the run ended; they are not lost" in lines
    assert "2 produced = 0 succeeded + 1 dead + 1 waiting + 0 lost" in lines
    assert lines[-2:] == ["WRONG: [red]odd[/red]", "Topics left at x: y"]


class Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_closed_output_is_told_once_and_then_nothing_is_written() -> None:
    console = DemoConsole(file=Closed())
    with pytest.raises(OutputClosedError):
        say(console, "first")

    say(console, "second")
