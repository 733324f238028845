"""Every check of the torture run finds its kind of violation in made-up histories."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from tests.torture import duplicates, plan
from tests.torture.checks import all_violations
from tests.torture.history import Call, Commit, Fault, History, Position, Post, Produced
from tests.torture.plan import Fate
from tests.torture.report import recovery

S = 10**9


def an_id(fate: Fate = Fate.SUCCEED, *, http: bool = False, failures: int | None = None) -> str:
    """An id whose plan is this one."""
    for number in count():
        name = f"m-{number}"
        if plan.is_http(name) != http or plan.fate(name) != fate:
            continue
        if failures is None or plan.failures(name) == failures:
            return name
    raise AssertionError


GOOD, RETRIED, ALWAYS, POSTED = an_id(), an_id(Fate.FAIL, failures=1), an_id(Fate.ALWAYS), an_id(http=True)


def a_call(message_id: str, attempt: int = 1, **fields: Any) -> Call:
    begin = fields.setdefault("ns", 10 * S)
    found = {"part": "consumer-2", "pid": 7, "partition": 0, "offset": 0, "end_ns": begin + 1000, "outcome": "ok"}
    return Call(id=message_id, attempt=attempt, **{**found, **fields})


def a_record(message_id: str, attempt: int = 1, **fields: Any) -> Position:
    if attempt > 1:
        headers = {"rebound-id": "x", "rebound-attempt": str(attempt)}
        fields["headers"] = headers | fields.get("headers", {})
    return Position(id=message_id, **{"partition": 0, "offset": 0, "ms": 9000, "key": "k", **fields})


def a_letter(message_id: str, attempt: int = 4, reason: str = "retries-exhausted") -> Position:
    return a_record(message_id, attempt, ms=90_000, headers={"rebound-reason": reason})


def a_fault(kind: str = "kill-consumer", target: str = "consumer-2", at_s: float = 11, **details: Any) -> Fault:
    return Fault(kind=kind, target=target, start_ns=round(at_s * S), end_ns=round(at_s * S), details=details)


def produced(*ids: str) -> dict[str, Produced]:
    return {one: Produced(id=one, ns=9 * S, http=plan.is_http(one)) for one in ids}


def good(**changes: Any) -> History:
    """A run that went well: one handled at once, one at its second attempt, one dead, one posted."""
    failed: dict[str, Any] = {"outcome": "failed"}
    history = History(
        produced=produced(GOOD, RETRIED, ALWAYS, POSTED),
        calls=[
            a_call(GOOD),
            a_call(RETRIED, offset=1, ns=11 * S, **failed),
            a_call(RETRIED, 2, offset=3, ns=12 * S + 2000, part="consumer-1", pid=6),
            a_call(ALWAYS, offset=2, ns=12 * S, **failed),
            a_call(ALWAYS, 2, offset=4, ns=13 * S + 2000, **failed),
            a_call(ALWAYS, 3, offset=5, ns=15 * S + 4000, **failed),
            a_call(ALWAYS, 4, offset=6, ns=19 * S + 6000, **failed),
        ],
        records=[
            a_record(GOOD),
            a_record(RETRIED, offset=1),
            a_record(ALWAYS, offset=2),
            a_record(RETRIED, 2, offset=3, ms=12_000),
            a_record(ALWAYS, 2, offset=4, ms=13_000),
            a_record(ALWAYS, 3, offset=5, ms=15_000),
            a_record(ALWAYS, 4, offset=6, ms=19_000),
        ],
        letters=[a_letter(ALWAYS)],
        posts=[Post(id=POSTED, attempt=2, ns=10 * S)],
        commits=[Commit(ns=13 * S, offsets={0: 3}), Commit(ns=30 * S, offsets={0: 7})],
    )
    return replace(history, **changes)


def kinds(history: History) -> set[str]:
    return {violation.kind for violation in all_violations(history)}


def test_a_run_that_went_well_has_no_violations() -> None:
    assert all_violations(good()) == []


def test_lost_id_is_reported_with_all_that_is_known_of_it() -> None:
    history = good(calls=[call for call in good().calls if call.id != GOOD], commits=[Commit(ns=S, offsets={0: 1})])

    (violation,) = (one for one in all_violations(history) if one.kind == "lost")

    assert violation.ids == (GOOD,)
    told = "\n".join(history.all_of(GOOD))
    assert "confirmed to the producer" in told
    assert f"record Position(id='{GOOD}'" in told
    assert "committed past [0]@0" in told


def test_call_that_a_kill_cut_short_handles_nothing() -> None:
    calls = [replace(call, outcome=None, end_ns=None) if call.id == GOOD else call for call in good().calls]

    assert kinds(good(calls=calls, commits=[])) == {"undrained"}
    assert kinds(good(calls=calls)) == {"lost", "passed"}


def test_post_that_was_not_taken_handles_nothing() -> None:
    history = good(posts=[Post(id=POSTED, attempt=2, ns=10 * S, answer="error", taken=False)])

    assert kinds(history) == {"lost"}


@pytest.mark.parametrize("changes", [{"held": frozenset({POSTED})}])
def test_what_still_waits_is_not_lost_but_a_violation_all_the_same(changes: dict[str, Any]) -> None:
    assert kinds(good(posts=[], **changes)) == {"undrained"}


def test_message_that_redis_keeps_as_dead_is_not_lost() -> None:
    assert all_violations(good(posts=[], kept_dead={POSTED: "worker-lost"})) == []
    assert kinds(good(posts=[], kept_dead={POSTED: "unreadable"})) == {"dead-letter"}


def test_skipped_attempt_is_reported() -> None:
    history = good(calls=[call for call in good().calls if (call.id, call.attempt) != (ALWAYS, 2)])

    assert "skipped" in kinds(history)


def test_dead_letter_before_the_last_attempt_is_reported() -> None:
    calls = [call for call in good().calls if (call.id, call.attempt) != (ALWAYS, 4)]

    assert "skipped" in kinds(good(calls=calls))


def test_attempt_that_goes_back_to_one_is_reported() -> None:
    back = a_record(ALWAYS, offset=7, ms=20_000, headers={"rebound-id": "x", "rebound-attempt": "1"})

    assert "went-back" in kinds(good(records=[*good().records, back]))


def test_attempt_that_follows_no_failure_is_reported() -> None:
    assert "went-back" in kinds(good(records=[*good().records, a_record(GOOD, 2, offset=7, ms=20_000)]))


def test_call_with_another_attempt_than_its_record_is_reported() -> None:
    calls = [replace(call, attempt=1) if (call.id, call.attempt) == (RETRIED, 2) else call for call in good().calls]

    assert "went-back" in kinds(good(calls=calls))


@pytest.mark.parametrize("ms", [11_500, 11_990])
def test_retry_in_its_topic_before_it_was_due_is_reported(ms: int) -> None:
    records = [replace(r, ms=ms) if (r.id, r.attempt) == (RETRIED, 2) else r for r in good().records]

    assert kinds(good(records=records)) == {"early"}


def test_retry_handled_before_it_was_due_is_reported() -> None:
    calls = [replace(c, ns=c.ns - 10**7) if (c.id, c.attempt) == (RETRIED, 2) else c for c in good().calls]

    assert kinds(good(calls=calls)) == {"early"}


@pytest.mark.parametrize("posts", [[(2, 9.9)], [(2, 10), (3, 11.9)]])
def test_post_before_it_was_due_is_reported(posts: list[tuple[int, float]]) -> None:
    made = [Post(id=POSTED, attempt=attempt, ns=round(at * S)) for attempt, at in posts]

    assert kinds(good(posts=made)) == {"early"}


def test_post_that_a_fault_let_arrive_late_makes_no_other_early() -> None:
    """The worker had given up on the first post at 12 s; it reached the receiver at 15 s."""
    posts = [Post(id=POSTED, attempt=2, ns=15 * S), Post(id=POSTED, attempt=3, ns=14 * S)]
    fault = Fault(kind="proxy-http", target="proxy-http", start_ns=9 * S, end_ns=15 * S)

    assert kinds(good(posts=posts)) == {"early"}
    assert all_violations(good(posts=posts, faults=[fault])) == []


def test_later_record_of_a_key_that_is_begun_first_is_reported() -> None:
    calls = [replace(call, ns=12 * S) if call.id == GOOD else call for call in good().calls]

    assert kinds(good(calls=calls)) == {"order"}


def test_order_is_not_promised_between_keys_nor_for_retries_or_second_calls() -> None:
    calls = [replace(call, ns=12 * S) if call.id == GOOD else call for call in good().calls]
    records = [replace(record, key="other") if record.id == GOOD else record for record in good().records]

    assert all_violations(good(calls=calls, records=records)) == []
    again = [*good().calls, a_call(GOOD, ns=25 * S)]
    assert all_violations(good(calls=again, faults=[a_fault(at_s=12.5, pid=7)])) == []


def test_offset_committed_before_its_record_was_handled_is_reported() -> None:
    assert kinds(good(commits=[Commit(ns=11 * S + 10, offsets={0: 2})])) == {"passed"}
    assert "passed" not in kinds(good(commits=[Commit(ns=11 * S + 1000, offsets={0: 2})]))


def test_dead_letter_of_a_message_that_was_to_be_handled_is_reported() -> None:
    assert "dead-letter" in kinds(good(letters=[*good().letters, a_letter(GOOD)]))


@pytest.mark.parametrize(("attempt", "reason"), [(4, "rejected"), (3, "retries-exhausted")])
def test_dead_letter_with_a_wrong_reason_or_attempt_is_reported(attempt: int, reason: str) -> None:
    assert "dead-letter" in kinds(good(letters=[a_letter(ALWAYS, attempt, reason)]))


def test_duplicates_beyond_what_the_faults_explain_are_reported() -> None:
    """A kill explains the calls of its own process, if they were not committed yet, once each."""
    again = [*good().calls, a_call(GOOD, ns=25 * S, pid=9)]

    assert kinds(good(calls=again)) == {"duplicates"}
    assert kinds(good(calls=again, faults=[a_fault(at_s=11, pid=99)])) == {"duplicates"}
    assert kinds(good(calls=again, faults=[a_fault(at_s=14, pid=7)])) == {"duplicates"}
    assert all_violations(good(calls=again, faults=[a_fault(at_s=11, pid=7)])) == []
    more = [*again, a_call(GOOD, ns=26 * S, pid=9)]
    assert kinds(good(calls=more, faults=[a_fault(at_s=11, pid=7)])) == {"duplicates"}


def test_a_fault_of_kafka_or_a_rebalance_exposes_the_calls_of_all() -> None:
    again = good(calls=[*good().calls, a_call(GOOD, ns=25 * S, pid=9)])

    assert all_violations(replace(again, faults=[a_fault("kill-kafka", "kafka")])) == []
    assert all_violations(replace(again, faults=[a_fault("add-consumer", "consumer-10")])) == []
    redis = a_fault("kill-redis", "redis", 12)
    assert all_violations(replace(again, faults=[a_fault(at_s=11, pid=99), redis])) == []
    assert kinds(replace(again, faults=[a_fault("kill-worker", "worker-2", pid=5)])) == {"duplicates"}


def test_stopped_consumer_may_repeat_what_others_took_over() -> None:
    again = good(calls=[*good().calls, a_call(GOOD, ns=25 * S, pid=9)])
    stop = Fault(kind="stop-consumer", target="consumer-3", start_ns=15 * S, end_ns=24 * S, details={"pid": 9})

    assert all_violations(replace(again, faults=[stop])) == []
    assert kinds(replace(again, faults=[replace(stop, details={"pid": 8})])) == {"duplicates"}


def test_too_many_deliveries_are_reported() -> None:
    """Eight of one attempt, but only two of them lie near the fault."""
    times = [10, 11, 40, 41, 42, 43, 44, 45]
    posts = [Post(id=POSTED, attempt=2, ns=at * S) for at in times]
    history = good(posts=posts, letters=[], produced=produced(GOOD, POSTED), calls=[], records=[])
    history.faults = [a_fault("kill-worker", "worker-2", 12, pid=5)]

    assert duplicates.count(history)["posts"] == 7
    assert duplicates.bound(history) == 2
    assert "duplicates" in kinds(history)


def test_only_the_beginning_of_a_duplicate_is_counted() -> None:
    """A record that was handled twice has two retries; those are no duplicates of their own."""
    calls = [*good().calls, a_call(RETRIED, offset=1, ns=13 * S, outcome="failed")]
    records = [*good().records, a_record(RETRIED, 2, offset=7, ms=14_000)]
    history = good(calls=[*calls, a_call(RETRIED, 2, offset=7, ns=15 * S)], records=records)

    assert duplicates.count(history) == {"calls": 1, "records": 0, "posts": 0, "letters": 0}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"records": [*good().records, a_record(RETRIED, 2, offset=7, ms=14_000)]}, "records"),
        ({"letters": [a_letter(ALWAYS), a_letter(ALWAYS)]}, "letters"),
        ({"posts": [Post(id=POSTED, attempt=2, ns=10 * S), Post(id=POSTED, attempt=2, ns=11 * S)]}, "posts"),
    ],
)
def test_second_delivery_of_the_same_attempt_is_a_duplicate(changes: dict[str, Any], kind: str) -> None:
    history = good(**changes)

    assert duplicates.count(history) == {"calls": 0, "records": 0, "posts": 0, "letters": 0, kind: 1}
    assert "duplicates" in kinds(history)


@pytest.mark.parametrize(
    ("first", "faults", "cause"),
    [
        ({"end_ns": None, "outcome": None}, [a_fault(pid=7)], "in-handler"),
        ({"outcome": "crash"}, [a_fault("exit", pid=7)], "in-handler"),
        ({}, [a_fault(pid=7)], "kill-consumer"),
        ({}, [a_fault("term-consumer", pid=7)], "term-consumer"),
        ({}, [a_fault(pid=7), a_fault("stop-kafka", "kafka", 10.5)], "outage"),
        ({}, [a_fault("stop-consumer", "consumer-3", 12, pid=9)], "stop-consumer"),
        ({}, [a_fault("stop-consumer", "consumer-3", 8, pid=9)], "none"),
        ({}, [a_fault(pid=8)], "none"),
    ],
)
def test_a_repeated_call_has_the_cause_that_kept_its_record_uncommitted(
    first: dict[str, Any], faults: list[Fault], cause: str
) -> None:
    history = History(calls=[a_call(GOOD, **first), a_call(GOOD, ns=13 * S, pid=9)], faults=faults)

    assert duplicates.repeats_by_cause(history) == {cause: 1}


def test_recovery_is_measured_for_faults_that_stand_alone() -> None:
    """The retry that is due at 12 s came at 15 s; the worker had been killed at 12.5 s."""
    records = [replace(r, ms=15_000) if (r.id, r.attempt) == (RETRIED, 2) else r for r in good().records]
    kill = a_fault("kill-worker", "worker-2", 12.5)

    alone = recovery(good(records=records, faults=[kill]), lambda fault: fault.kind == "kill-worker")
    crowded = recovery(
        good(records=records, faults=[kill, a_fault("stop-redis", "redis", 13)]),
        lambda fault: fault.kind == "kill-worker",
    )

    assert alone == {"count": 1, "median": 2.5, "max": 2.5}
    assert crowded is None
