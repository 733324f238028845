"""Counts the duplicates of a run, and computes the largest number that its faults explain.

Only the first duplicate of a chain counts. A second retry of a record that was handled twice is not counted again.
These are duplicates:

- a further call of the handler for the same record (topic, partition, offset);
- more records of one attempt than failed calls of the attempt before it; more dead letters than failed last attempts;
- more posts of one attempt than posts of the attempt before it.

The bound: work is done again only if it was under way when a fault came. Each call of the handler and each delivery can
be repeated only once. So there are at most as many duplicates as calls and deliveries that were *exposed* to a fault.
The number of faults does not matter.

- A call is exposed to a fault of its consumer if it had begun and its record was not committed when the fault came. The
  watch of the group's offsets shows the commits; its last look before the fault decides.
- A call is exposed to a fault of any consumer if the whole group has to stop: because members come or go and commits
  fail while Kafka or Redis is away before the group works again (`NOTICED_S`), or because Kafka or Redis has the
  fault itself.
- A consumer that was stopped repeats the records of partitions that others have taken over. Its calls are exposed until
  `AFTER_S` after the end of the stop.
- A delivery is exposed to a fault of a worker, of Redis, of Kafka, or of the network to one of them, if it began from
  `IN_HAND_S` before the fault (the longest job) to `AFTER_S` after it.

A further call of a record that was not exposed is a violation by itself, because no fault explains it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.torture.history import Violation
from tests.torture.plan import HTTP_TIMEOUT_S, MAX_RETRIES, SESSION_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.torture.history import Call, Fault, History

S = 10**9
#: How long a stopped process works before it notices the stop, and how long a cut connection stays unnoticed.
AFTER_S = 2.0
#: The session's end, and the five seconds that a rebalance waits for running calls.
NOTICED_S = SESSION_S + 5 + 2
#: A job of records waits 8 s for confirmations; one of 64 posts, 16 at once, four times for an answer.
IN_HAND_S = max(8.0, 4 * HTTP_TIMEOUT_S)
#: How long after its end Redis may not have heard of a call for a record from a chain.
TOLD_S = 2.0
#: The longest time that a call stays uncommitted.
HORIZON_S = 120


def is_of_consumers(fault: Fault) -> bool:
    """Return whether a fault can end, stop or disconnect a consumer, or rebalance the group."""
    return "consumer" in fault.target or is_outage(fault)


def is_of_workers(fault: Fault) -> bool:
    """Return whether a fault can make a worker repeat a delivery."""
    servers = ("kafka", "redis", "http", "receiver")
    return "worker" in fault.target or any(name in fault.kind or name in fault.target for name in servers)


def is_outage(fault: Fault) -> bool:
    """Return whether a fault keeps consumers from committing while it lasts."""
    return "kafka" in fault.kind or ("redis" in fault.kind and "workers" not in fault.kind)


def repeated_calls(history: History) -> list[tuple[Call, Call]]:
    """Return the further calls of each record, each with the call before it."""
    pairs: list[tuple[Call, Call]] = []
    for calls in history.calls_by_place.values():
        ordered = sorted(calls, key=lambda call: call.ns)
        pairs += pairwise(ordered)
    return pairs


def count(history: History) -> Counter[str]:
    """Count the duplicates of each kind: calls, records, letters, posts."""
    found = Counter(calls=len(repeated_calls(history)))
    failed = Counter((call.id, call.attempt) for call in history.calls if call.outcome == "failed")
    records = Counter((record.id, record.attempt) for record in history.records if not record.is_original)
    posts = Counter((post.id, post.attempt) for post in history.posts)
    letters = Counter(letter.id for letter in history.letters)
    found["records"] = sum(max(0, number - failed[id_, n - 1]) for (id_, n), number in records.items())
    found["posts"] = sum(max(0, number - max(1, posts[id_, n - 1])) for (id_, n), number in posts.items())
    if history.in_order:
        # The schedule delivers what a consumer has taken and does not renew. What was handled of it counts as a call.
        found["records"] = 0
    last = 1 + MAX_RETRIES
    found["letters"] = sum(
        max(0, number - max(1, failed[id_, last], posts[id_, last])) for id_, number in letters.items()
    )
    return found


def repeats_by_cause(history: History) -> Counter[str]:
    """Count the repeated calls by the reason why the record was not committed after the call before.

    Returns:
        the counts: "in-handler" (the process ended within the call), "outage" (Kafka or Redis was away between the call
        and the end of its process), and else the kind of the fault of the process. A process that was stopped for
        longer than its session goes on with what it has in memory, until it notices that others have the partitions:
        then this stop is the cause. "none" if there is none of these.
    """
    outages = [fault for fault in history.faults if is_outage(fault)]
    ends: dict[int | None, list[Fault]] = defaultdict(list)
    for fault in history.faults:
        ends[fault.pid].append(fault)
    found: Counter[str] = Counter()
    for first, second in repeated_calls(history):
        fault = next((f for f in ends[first.pid] if first.ns <= f.start_ns <= second.ns), None)
        if fault is None:
            fault = next((f for f in ends[second.pid] if _goes_on_after(f, second)), None)
        until = fault.end_ns if fault is not None else second.ns
        is_own = fault is not None and fault.pid == first.pid
        if first.end_ns is None or first.outcome == "crash" or (is_own and first.end_ns >= fault.start_ns):
            found["in-handler"] += 1
        elif any(o.start_ns <= until and o.end_ns + NOTICED_S * S >= first.end_ns for o in outages):
            found["outage"] += 1
        else:
            found["none" if fault is None else fault.kind] += 1
    return found


def bound(history: History) -> int:
    """Return the largest number of duplicates that the faults explain; see the module's docstring."""
    return len(exposed_calls(history)) + len(late_calls(history)) + exposed_deliveries(history)


def exposed_calls(history: History) -> set[Call]:
    """Return the calls that had begun and were not committed when a fault came."""
    calls = sorted(history.calls, key=lambda call: call.ns)
    times = [call.ns for call in calls]
    commits = sorted(history.commits, key=lambda commit: commit.ns)
    looks = [commit.ns for commit in commits]
    faults = [fault for fault in history.faults if is_of_consumers(fault)]
    outages = [fault for fault in history.faults if is_outage(fault)]
    exposed: set[Call] = set()
    for fault in faults:
        noticed = fault.end_ns + NOTICED_S * S
        is_for_all = fault.pid is None or any(o.start_ns <= noticed and o.end_ns >= fault.start_ns for o in outages)
        look = bisect_right(looks, fault.start_ns) - 1
        offsets = commits[look].offsets if look >= 0 else {}
        begin = bisect_left(times, fault.start_ns - HORIZON_S * S)
        end = bisect_right(times, noticed if is_for_all else fault.end_ns + AFTER_S * S)
        exposed.update(
            call
            for call in calls[begin:end]
            if (call.offset >= offsets.get(call.partition, 0) or _is_from_chain(history, call, fault))
            and (is_for_all or call.pid == fault.pid)
        )
    return exposed


def _is_from_chain(history: History, call: Call, fault: Fault) -> bool:
    """Return whether Redis may not have heard yet, when the fault came, of a record that was taken from a chain.

    Its offset is committed already. Redis hears of it soon after the call has ended.
    """
    ended = call.end_ns or fault.start_ns
    return history.in_order and ended >= fault.start_ns - TOLD_S * S


def late_calls(history: History) -> set[Call]:
    """Return the calls of consumers that were stopped, before they noticed that others had taken over."""
    stops = [fault for fault in history.faults if fault.kind == "stop-consumer"]
    return {
        call for call in history.calls if any(stop.pid == call.pid and _goes_on_after(stop, call) for stop in stops)
    }


def _goes_on_after(fault: Fault, call: Call) -> bool:
    """Return whether a fault is a stop of a consumer, and a call began in it or soon after its end."""
    return fault.kind == "stop-consumer" and fault.start_ns <= call.ns <= fault.end_ns + AFTER_S * S


def exposed_deliveries(history: History) -> int:
    """Return how many deliveries may have been under way in a worker when a fault came."""
    times = sorted(
        [record.ms * 1_000_000 for record in history.records if not record.is_original]
        + [letter.ms * 1_000_000 for letter in history.letters]
        + [post.ns for post in history.posts]
    )
    exposed: set[int] = set()
    for fault in history.faults:
        if is_of_workers(fault):
            begin = bisect_left(times, fault.start_ns - IN_HAND_S * S)
            exposed.update(range(begin, bisect_right(times, fault.end_ns + AFTER_S * S)))
    return len(exposed)


def unexplained(history: History) -> list[tuple[Call, Call]]:
    """Return the repeated calls, each with the call before it, that no fault explains."""
    exposed, late = exposed_calls(history), late_calls(history)
    return [(first, second) for first, second in repeated_calls(history) if first not in exposed and second not in late]


def too_many_duplicates(history: History) -> Iterator[Violation]:
    found, allowed = count(history).total(), bound(history)
    if found > allowed:
        yield Violation("duplicates", f"{found} duplicates, but the faults explain {allowed} at most")
    for first, second in unexplained(history):
        text = f"{first.id} at {first.place} was handled again after {(second.ns - first.ns) / S:.1f} s, for no fault"
        yield Violation("duplicates", text, (second.id,))
