"""Duplicates: how many there are, and how many there may be.

What is counted is where a duplicate *begins*; what follows from one (a second retry of a record that was handled twice)
is not counted again:

- a further call of the handler for the same record (topic, partition, offset);
- of one attempt, more records than calls of the attempt before it failed; more dead letters than last attempts failed;
- of one attempt, more posts than there were of the attempt before it.

The bound. What is done again was under way when a fault came. Each call of the handler, and each delivery, can be
followed by one more of its kind only once, so there are at most as many duplicates as there are calls and deliveries
that were *exposed* to a fault, however many faults there were:

- a call is exposed to a fault of its consumer if it was begun, and its record not yet committed, when the fault came.
  What is committed is known from the looks at the group's offsets: the last one before the fault holds. It is exposed
  to a fault of any consumer where the whole group has to stop: members come or go, and commits fail because Kafka or
  Redis is in trouble before the group is at work again (`NOTICED_S`); or Kafka or Redis has the fault itself;
- a consumer that was stopped repeats what others have taken over: what it begins until `AFTER_S` after its end;
- a delivery is exposed to a fault of a worker, Redis, Kafka, or the way to one of them, from `IN_HAND_S` before it (the
  longest job) until `AFTER_S` after it.

A further call of a record that is neither is a violation by itself: no fault explains it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.torture.history import Violation
from tests.torture.plan import HTTP_TIMEOUT_S, MAX_RETRIES, SESSION_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.torture.history import Call, Fault, History

S = 10**9
#: How long a process that was stopped goes on before it notices, and a cut connection is missed.
AFTER_S = 2.0
#: The session's end, and the five seconds that a rebalance waits for running calls.
NOTICED_S = SESSION_S + 5 + 2
#: A job of records waits 8 s for confirmations; one of 64 posts, 16 at once, four times for an answer.
IN_HAND_S = max(8.0, 4 * HTTP_TIMEOUT_S)
#: No call stays uncommitted for longer.
HORIZON_S = 120


def is_of_consumers(fault: Fault) -> bool:
    """Whether it can end, stop or cut off a consumer, or rebalance the group."""
    return "consumer" in fault.target or is_outage(fault)


def is_of_workers(fault: Fault) -> bool:
    """Whether it can make a worker deliver again what was delivered."""
    servers = ("kafka", "redis", "http", "receiver")
    return "worker" in fault.target or any(name in fault.kind or name in fault.target for name in servers)


def is_outage(fault: Fault) -> bool:
    """Whether it keeps consumers from committing while it lasts."""
    return "kafka" in fault.kind or ("redis" in fault.kind and "workers" not in fault.kind)


def repeated_calls(history: History) -> list[tuple[Call, Call]]:
    """Further calls of a record, each with the call before it."""
    pairs: list[tuple[Call, Call]] = []
    for calls in history.calls_by_place.values():
        ordered = sorted(calls, key=lambda call: call.ns)
        pairs += pairwise(ordered)
    return pairs


def count(history: History) -> Counter[str]:
    """Duplicates by what was done again: calls, records, letters, posts."""
    found = Counter(calls=len(repeated_calls(history)))
    failed = Counter((call.id, call.attempt) for call in history.calls if call.outcome == "failed")
    records = Counter((record.id, record.attempt) for record in history.records if not record.is_original)
    posts = Counter((post.id, post.attempt) for post in history.posts)
    letters = Counter(letter.id for letter in history.letters)
    found["records"] = sum(max(0, number - failed[id_, n - 1]) for (id_, n), number in records.items())
    found["posts"] = sum(max(0, number - max(1, posts[id_, n - 1])) for (id_, n), number in posts.items())
    last = 1 + MAX_RETRIES
    found["letters"] = sum(
        max(0, number - max(1, failed[id_, last], posts[id_, last])) for id_, number in letters.items()
    )
    return found


def bound(history: History) -> int:
    """How many duplicates the faults explain at most; see the module's text."""
    return len(exposed_calls(history)) + len(late_calls(history)) + exposed_deliveries(history)


def exposed_calls(history: History) -> set[Call]:
    """The calls that a fault found begun and not committed."""
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
            if call.offset >= offsets.get(call.partition, 0) and (is_for_all or call.pid == fault.pid)
        )
    return exposed


def late_calls(history: History) -> set[Call]:
    """The calls of consumers that were stopped, and had not noticed yet that others had taken over."""
    stops = [fault for fault in history.faults if fault.kind == "stop-consumer"]
    return {
        call
        for call in history.calls
        if any(stop.pid == call.pid and stop.start_ns <= call.ns <= stop.end_ns + AFTER_S * S for stop in stops)
    }


def exposed_deliveries(history: History) -> int:
    """How many deliveries may have been in a worker's hand when a fault came."""
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
    """Repeated calls, each with the one before it, which no fault had found uncommitted."""
    exposed, late = exposed_calls(history), late_calls(history)
    return [(first, second) for first, second in repeated_calls(history) if first not in exposed and second not in late]


def too_many_duplicates(history: History) -> Iterator[Violation]:
    found, allowed = count(history).total(), bound(history)
    if found > allowed:
        yield Violation("duplicates", f"{found} duplicates, but the faults explain {allowed} at most")
    for first, second in unexplained(history):
        text = f"{first.id} at {first.place} was handled again after {(second.ns - first.ns) / S:.1f} s, for no fault"
        yield Violation("duplicates", text, (second.id,))
