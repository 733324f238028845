"""The circuit breakers of lanes: telling them how deliveries ended, opening and closing them, and listing them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from .envelope import from_id
from .keys import QueueKeys
from .script_runner import Call, run_script
from .values import Breaker, BreakerChange, BreakerRules, LaneReport

#: A breaker that is due later than this stays open until it is closed by hand.
_FOR_EVER_MS = 10**14

#: The longest error text that is kept, in characters.
_ERROR_LENGTH = 200


class _Record(msgspec.Struct):
    """A breaker as `breaker.lua` keeps it."""

    state: str
    since: float
    due: float
    interval: float
    hand: bool
    failed: float
    total: float
    drain: float
    error: str = ""


#: Closing goes by no rule.
_UNUSED = BreakerRules(1.0, 1, 1000, 1000, 1000, 1000, 0.0)

_decoder = msgspec.msgpack.Decoder(_Record)


def report(client: Any, keys: QueueKeys, reports: Iterable[LaneReport], rules: BreakerRules) -> list[BreakerChange]:
    """Tell how deliveries ended; for each report what that has changed."""
    return _run(
        client,
        [_call(keys, each.lane, "report", rules, each.answered, each.failed, each.error) for each in reports],
    )


def open_by_hand(client: Any, keys: QueueKeys, lane: str, duration_ms: int | None, rules: BreakerRules) -> None:
    """Open a breaker, until it is closed by hand or until the first probe after this time."""
    _run(client, [_call(keys, lane, "open", rules, duration_ms=duration_ms or 0)])


def close_by_hand(client: Any, keys: QueueKeys, lane: str, rules: BreakerRules) -> bool:
    """Close a breaker; False if it was closed."""
    (change,) = _run(client, [_call(keys, lane, "close", rules)])
    return change.event == "closed"


def close_unreported(client: Any, keys: QueueKeys) -> list[str]:
    """Close breakers that no worker reports to any more; returns their lanes. Those opened by hand stay open."""
    unreported = [one.lane for one in breakers(client, keys) if not (one.by_hand and one.state == "open")]
    return [lane for lane in unreported if close_by_hand(client, keys, lane, _UNUSED)]


def breakers(client: Any, keys: QueueKeys) -> list[Breaker]:
    """All breakers that are not closed, by the names of their lanes."""
    found = client.hgetall(keys.breakers)
    return sorted((_breaker(from_id(lane), record) for lane, record in found.items()), key=lambda each: each.lane)


def _call(
    keys: QueueKeys,
    lane: str,
    what: str,
    rules: BreakerRules,
    answered: int = 0,
    failed: int = 0,
    error: str = "",
    duration_ms: int = 0,
) -> Call:
    lanes = keys.of_lanes(f"{rank}{lane}" for rank in keys.ranks)
    touched = [keys.breakers, keys.outcomes(lane), keys.limits, keys.next, keys.wake, *lanes]
    text = error[:_ERROR_LENGTH].encode("utf-8", "replace")
    arguments: list[Any] = [lane, what, answered, failed, text, duration_ms, rules.share, rules.count]
    arguments += [rules.window_ms, rules.probe_ms, rules.max_probe_ms, rules.wait_ms, rules.drain_rate]
    return Call(touched, arguments)


def _run(client: Any, calls: Sequence[Call]) -> list[BreakerChange]:
    sent, answers = run_script(client, "breaker", calls)
    changes = []
    for call, (event, record, now_ms) in zip(sent, answers, strict=True):
        breaker = _breaker(call.arguments[0], record) if record else None
        changes.append(BreakerChange(event.decode(), breaker, now_ms))
    return changes


def _breaker(lane: str, record: bytes) -> Breaker:
    read = _decoder.decode(record)
    until_ms = None if read.state == "draining" or read.due > _FOR_EVER_MS else int(read.due)
    rate = read.drain if read.state == "draining" and read.drain else None
    return Breaker(
        lane,
        read.state,
        int(read.since),
        until_ms,
        by_hand=read.hand,
        failed=int(read.failed),
        total=int(read.total),
        interval_s=read.interval / 1000,
        drain_rate=rate,
        error=read.error,
    )
