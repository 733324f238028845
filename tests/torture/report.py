"""Computes the figures of a run for the line of JSON."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.torture import duplicates, plan
from tests.torture.checks import dead, handled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.torture.history import Fault, History, Violation
    from tests.torture.options import Options

S = 10**9

#: The time around a fault without another fault, in seconds. Then the time to recover belongs to this fault alone.
ALONE_BEFORE_S, ALONE_AFTER_S = 1.0, 8.0


def figures(options: Options, history: History, violations: Sequence[Violation], restarts: int) -> dict[str, Any]:
    """Return the printed figures; times are in seconds."""
    kinds = Counter(violation.kind for violation in violations)
    faults = [fault for fault in history.faults if fault.kind != "exit"]
    found = duplicates.count(history)
    return {
        "seed": options.seed,
        "minutes": options.minutes,
        "kafka": options.kafka,
        "ordering": options.ordering,
        "produced": len(history.produced),
        "handled": len(handled(history) & history.produced.keys()),
        "dead": len(dead(history) & history.produced.keys()),
        "lost": kinds["lost"],
        "undrained": kinds["undrained"],
        "duplicates": found.total(),
        "duplicates_by_kind": dict(found),
        "calls_repeated_by_cause": dict(duplicates.repeats_by_cause(history)),
        "duplicate_bound": duplicates.bound(history),
        "unexplained": len(duplicates.unexplained(history)),
        "kills": sum(fault.kind.startswith("kill-") for fault in faults) + _crashes(history),
        "faults": dict(sorted(Counter(fault.kind for fault in faults).items())),
        "handler_crashes": _crashes(history),
        "restarts": restarts,
        "calls": len(list(history.calls)),
        "early": kinds["early"],
        "skipped_attempts": kinds["skipped"],
        "went_back": kinds["went-back"],
        "order_violations": kinds["order"],
        "offsets_passed": kinds["passed"],
        "dead_letter_faults": kinds["dead-letter"],
        "offset_looks": len(list(history.commits)),
        "recovery_s": {
            "worker": recovery(history, lambda fault: fault.kind in ("kill-worker", "kill-worker-group")),
            "redis": recovery(history, lambda fault: fault.kind in ("kill-redis", "restart-redis"), from_end=True),
            "kafka": recovery(history, lambda fault: fault.kind in ("kill-kafka", "restart-kafka"), from_end=True),
        },
    }


def _crashes(history: History) -> int:
    return sum(call.outcome == "crash" for call in history.calls)


def recovery(history: History, chosen: Callable[[Fault], bool], *, from_end: bool = False) -> dict[str, float] | None:
    """Return the times to recover: from a fault (or its end) until all retries due by then were in their topics.

    Only faults without another fault around them count.

    Returns:
        the number of such faults, the median and the longest time; None if there were none.
    """
    failed: dict[tuple[str, int], int] = {}
    for call in history.calls:
        if call.outcome == "failed" and call.end_ns is not None:
            failed[call.id, call.attempt] = min(call.end_ns, failed.get((call.id, call.attempt), call.end_ns))
    arrived: dict[tuple[str, int], int] = {}
    for record in history.records:
        name, ns = (record.id, record.attempt), record.ms * 1_000_000
        arrived[name] = min(ns, arrived.get(name, ns))
    waits = []
    for (message_id, attempt), ns in arrived.items():
        if before := failed.get((message_id, attempt - 1)):
            waits.append((before + plan.delay_ns(attempt - 1), ns))
    times = []
    for fault in filter(chosen, history.faults):
        others = (other for other in history.faults if other is not fault and not _is_echo(other, fault))
        at = fault.end_ns if from_end else fault.start_ns
        if any(
            other.start_ns <= at + ALONE_AFTER_S * S and other.end_ns >= fault.start_ns - ALONE_BEFORE_S * S
            for other in others
        ):
            continue
        times.append(max((ns - at for due, ns in waits if due <= at < ns), default=0) / S)
    if not times:
        return None
    return {"count": len(times), "median": round(statistics.median(times), 2), "max": round(max(times), 2)}


def _is_echo(other: Fault, fault: Fault) -> bool:
    """Return whether the other fault is the end of a process that this kill has caused."""
    return other.kind == "exit" and other.target == fault.target
