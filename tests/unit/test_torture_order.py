"""The torture run's check of the order of each key while a record is tried again."""

from __future__ import annotations

import pytest

from tests.torture.checks import order, passed
from tests.torture.history import Call, Commit, History, Position
from tests.torture.plan import MAX_RETRIES

S = 10**9


def record(number: int, key: str = "k", **fields: object) -> Position:
    return Position(id=f"m{number}", partition=0, offset=number, ms=0, key=key, **fields)  # type: ignore[arg-type]


def call(number: int, at: float, outcome: str, attempt: int = 1, offset: int | None = None) -> Call:
    return Call(
        id=f"m{number}",
        attempt=attempt,
        part="consumer-1",
        pid=1,
        partition=0,
        offset=number if offset is None else offset,
        ns=int(at * S),
        end_ns=int((at + 0.5) * S),
        outcome=outcome,
    )


def broken(*calls: Call, in_order: bool = True, keys: str = "kk") -> list[tuple[str, ...]]:
    history = History(records=[record(n, key) for n, key in enumerate(keys)], calls=calls, in_order=in_order)
    return [violation.ids for violation in order(history)]


def test_record_that_begins_before_the_retry_of_an_earlier_one_has_ended_breaks_the_order() -> None:
    calls = call(0, 1, "failed"), call(1, 2, "ok"), call(0, 3, "ok", 2, offset=9)

    assert broken(*calls) == [("m0", "m1")]
    assert broken(*calls, in_order=False) == []
    assert broken(*calls, keys="ab") == []


def test_record_that_begins_after_success_or_the_last_attempt_keeps_the_order() -> None:
    assert broken(call(0, 1, "failed"), call(0, 3, "ok", 2, offset=9), call(1, 4, "ok")) == []
    assert broken(call(0, 1, "failed", 1 + MAX_RETRIES), call(1, 4, "ok")) == []
    assert broken(call(0, 1, "failed", MAX_RETRIES), call(1, 4, "ok")) == [("m0", "m1")]


def test_repeated_call_of_an_earlier_record_keeps_the_order() -> None:
    assert broken(call(0, 1, "ok"), call(1, 2, "ok"), call(0, 3, "failed")) == []


@pytest.mark.parametrize("in_order", [True, False])
def test_record_behind_a_failed_one_may_be_committed_before_it_is_handled(in_order: bool) -> None:
    history = History(
        records=[record(0), record(1), record(2, "other")],
        calls=[call(0, 1, "failed"), call(1, 9, "ok"), call(2, 9, "ok")],
        commits=[Commit(ns=5 * S, offsets={0: 3})],
        in_order=in_order,
    )

    late = [violation.ids for violation in passed(history)]

    assert late == ([("m2",)] if in_order else [("m1",), ("m2",)])
