"""Checks the history of a run: every confirmed message is handled, or dead with its reason, or it is lost.

These are pure functions of a `History`. Each finds all violations of one kind:

- `lost`: a confirmed id is not handled, not dead, and nowhere else. `undrained`: it still waits at the end.
- `skipped`: the attempts of an id are not 1, 2, 3 ... `went-back`: a record does not follow a failed call of the
  attempt before it, or a call had another attempt than its record.
- `early`: a retry lay in its topic, was handled, or was posted before it was due.
- `order`: of two original records of a partition with the same key, the call for the later one began first. In a run
  with `--ordering key`: it began before the earlier one had ended, with success or after its last attempt.
- `passed`: an offset was committed above a record whose handler had not ended.
- `dead-letter`: a message is dead but must not be, or its reason or its attempts are wrong.
- `duplicates`: there are more duplicates than the faults explain; see `duplicates`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.torture import plan
from tests.torture.duplicates import too_many_duplicates
from tests.torture.history import Violation
from tests.torture.plan import MAX_RETRIES, Fate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.torture.history import History, Place, Position

#: How much too early a retry may seem: two processes each cut the time to whole milliseconds.
GRAIN_NS = 2_000_000

#: A fault of the network to the receiver may have delayed the posts that arrive within this time after it.
SLOW_WAY_NS = 5 * 10**9

RETRIES_EXHAUSTED = "retries-exhausted"
WORKER_LOST = "worker-lost"


def all_violations(history: History) -> list[Violation]:
    """Return all violations."""
    checks = (lost, skipped, went_back, early, order, passed, dead_letters, too_many_duplicates)
    return [violation for check in checks for violation in check(history)]


def handled(history: History) -> set[str]:
    """Return the ids whose handler returned, or whose post got the answer 200."""
    calls = {call.id for call in history.calls if call.outcome == "ok"}
    return calls | {post.id for post in history.posts if post.taken}


def dead(history: History) -> set[str]:
    return history.letters_by_id.keys() | history.kept_dead.keys()


def lost(history: History) -> Iterator[Violation]:
    last = _last_commit(history)
    for message_id in sorted(history.produced.keys() - handled(history) - dead(history)):
        records = history.records_by_id.get(message_id, ())
        if message_id in history.held:
            yield Violation("undrained", f"{message_id} still waits in Redis", (message_id,))
        elif any(record.offset >= last.get(record.partition, 0) for record in records):
            yield Violation("undrained", f"{message_id} still waits in Kafka", (message_id,))
        else:
            yield Violation("lost", f"{message_id} is lost", (message_id,))


def skipped(history: History) -> Iterator[Violation]:
    """Only for messages over Kafka. Over HTTP, an attempt counts even if a fault kept it from the receiver."""
    for message_id, calls in history.calls_by_id.items():
        attempts = {call.attempt for call in calls}
        if attempts != set(range(1, max(attempts) + 1)):
            yield Violation("skipped", f"{message_id} was tried as attempts {sorted(attempts)}", (message_id,))
        letters = history.letters_by_id.get(message_id, ())
        if letters and max(attempts) != 1 + MAX_RETRIES:
            yield Violation("skipped", f"{message_id} is dead after attempts {sorted(attempts)}", (message_id,))


def went_back(history: History) -> Iterator[Violation]:
    failed = _first_failed(history)
    # A record that has waited in Redis is handled with the position at which it was first read, whatever its attempt.
    attempts = {r.place: r.attempt for r in history.records if not (history.in_order and r.is_original and r.key)}
    for record in history.records:
        before = failed.get((record.id, record.attempt - 1))
        if record.is_original:
            continue
        if record.attempt < 2 and history.in_order and record.key is not None:
            continue  # It had waited behind another one in Redis.
        if record.attempt < 2:
            text = f"{record.id} came back as attempt {record.attempt} at {record.place}"
            yield Violation("went-back", text, (record.id,))
        elif before is None:
            text = f"attempt {record.attempt} of {record.id} at {record.place} follows no failed attempt"
            yield Violation("went-back", text, (record.id,))
    for call in history.calls:
        if attempts.get(call.place, call.attempt) != call.attempt:
            text = f"{call.id} was handled as attempt {call.attempt}, but its record is attempt {attempts[call.place]}"
            yield Violation("went-back", text, (call.id,))


def early(history: History) -> Iterator[Violation]:
    failed = _first_failed(history)
    seen = [("in its topic", record.id, record.attempt, record.ms * 1_000_000) for record in history.records]
    seen += [("handled", call.id, call.attempt, call.ns) for call in history.calls]
    for how, message_id, attempt, ns in seen:
        before = failed.get((message_id, attempt - 1))
        if before is not None and ns < before + plan.delay_ns(attempt - 1) - GRAIN_NS:
            yield _too_early(how, message_id, attempt, ns - before, plan.delay_ns(attempt - 1))
    yield from _posted_early(history)


def _posted_early(history: History) -> Iterator[Violation]:
    """The earliest time is the scheduling plus all delays. The post before gives a later time if no fault delayed it.

    A fault may let a post arrive long after the worker has given up on it. Such a post says nothing about the next.
    """
    faults = [fault for fault in history.faults if "http" in fault.kind or "receiver" in fault.kind]
    first: dict[tuple[str, int], int] = {}
    for post in history.posts:
        first[post.id, post.attempt] = min(post.ns, first.get((post.id, post.attempt), post.ns))
    for (message_id, attempt), ns in first.items():
        scheduled, before = history.produced.get(message_id), first.get((message_id, attempt - 1))
        waits = [plan.delay_ns(number) for number in range(1, attempt)]
        if scheduled is not None and ns < scheduled.ns + sum(waits) - GRAIN_NS:
            yield _too_early("posted", message_id, attempt, ns - scheduled.ns, sum(waits))
            continue
        if before is None or any(f.start_ns <= before and f.end_ns >= before - SLOW_WAY_NS for f in faults):
            continue
        if ns < before + waits[-1] - GRAIN_NS:
            yield _too_early("posted", message_id, attempt, ns - before, waits[-1])


def order(history: History) -> Iterator[Violation]:
    """Return the violations of the order that the run's consumers promise."""
    yield from (_order_of_ends(history) if history.in_order else _order_of_first_calls(history))


def _order_of_ends(history: History) -> Iterator[Violation]:
    """Compare the end of each record with the first call for the next one. A second end is a duplicate's."""
    ended = _ended(history)
    begun = {message_id: min(call.ns for call in calls) for message_id, calls in history.calls_by_id.items()}
    originals = Counter(record.id for record in history.records if record.is_original)
    key_queues: dict[tuple[int, str], list[Position]] = defaultdict(list)
    for record in history.records:
        # A record that was produced twice has one journal for both.
        if record.is_original and record.key is not None and originals[record.id] == 1 and record.id in begun:
            key_queues[record.partition, record.key].append(record)
    for (partition, key), records in key_queues.items():
        records.sort(key=lambda record: record.offset)
        for earlier, later in pairwise(records):
            if earlier.id in history.kept_dead:
                continue
            if begun[later.id] < ended.get(earlier.id, begun[later.id] + 1):
                text = f"[{partition}] {key}: @{later.offset} was begun before @{earlier.offset} had ended"
                yield Violation("order", text, (earlier.id, later.id))


def _ended(history: History) -> dict[str, int]:
    """Return when each message had ended first: with a call that returned, or as a dead letter."""
    ends = [
        (call.id, call.end_ns)
        for call in history.calls
        if call.end_ns is not None
        and (call.outcome == "ok" or (call.outcome == "failed" and call.attempt > MAX_RETRIES))
    ]
    lost = (letter for letter in history.letters if letter.headers.get("rebound-reason") == WORKER_LOST)
    ends += [(letter.id, letter.ms * 1_000_000) for letter in lost]
    ended: dict[str, int] = {}
    for message_id, ns in ends:
        ended[message_id] = min(ns, ended.get(message_id, ns))
    return ended


def _order_of_first_calls(history: History) -> Iterator[Violation]:
    """Compare the first calls of the original records. A second call is a duplicate, and its time does not matter."""
    begun = {place: min(call.ns for call in calls) for place, calls in history.calls_by_place.items()}
    key_queues: dict[tuple[int, str], list[Position]] = defaultdict(list)
    for record in history.records:
        if record.is_original and record.key is not None and record.place in begun:
            key_queues[record.partition, record.key].append(record)
    for (partition, key), records in key_queues.items():
        records.sort(key=lambda record: record.offset)
        for earlier, later in pairwise(records):
            if begun[later.place] < begun[earlier.place]:
                text = f"[{partition}] {key}: @{later.offset} was begun before @{earlier.offset}"
                yield Violation("order", text, (earlier.id, later.id))


def passed(history: History) -> Iterator[Violation]:
    ended: dict[Place, int] = {}
    for call in history.calls:
        if call.outcome in ("ok", "failed") and call.end_ns is not None:
            ended[call.place] = min(call.end_ns, ended.get(call.place, call.end_ns))
    waited = _waited_in_redis(history)
    by_partition: dict[int, list[Position]] = defaultdict(list)
    for record in sorted(history.records, key=lambda record: record.offset):
        by_partition[record.partition].append(record)
    checked: dict[int, int] = defaultdict(int)
    for commit in sorted(history.commits, key=lambda commit: commit.ns):
        for partition, offset in commit.offsets.items():
            records, index = by_partition[partition], checked[partition]
            # The records below this commit are checked now. A later commit adds only the records above it.
            while index < len(records) and records[index].offset < offset:
                record = records[index]
                if ended.get(record.place, commit.ns + 1) > commit.ns and record.place not in waited:
                    text = (
                        f"[{partition}] was committed up to {offset} before {record.id} at @{record.offset} was handled"
                    )
                    yield Violation("passed", text, (record.id,))
                index += 1
            checked[partition] = index


def _waited_in_redis(history: History) -> set[Place]:
    """Return the records that may be committed before they are handled, because Redis keeps their order.

    These are the records behind one of their key that has failed, and all that rebound delivered.
    """
    if not history.in_order:
        return set()
    found: set[Place] = set()
    blocked: set[tuple[int, str]] = set()
    failed = {call.id for call in history.calls if call.outcome != "ok"}
    for record in sorted(history.records, key=lambda record: record.offset):
        if record.key is None:
            continue
        name = record.partition, record.key
        if name in blocked or not record.is_original:
            found.add(record.place)
        if record.id in failed or not record.is_original:
            blocked.add(name)
    return found


def dead_letters(history: History) -> Iterator[Violation]:
    for letter in (letter for letters in history.letters_by_id.values() for letter in letters):
        reason = letter.headers.get("rebound-reason")
        if not plan.is_http(letter.id) and plan.fate(letter.id) != Fate.ALWAYS and reason != WORKER_LOST:
            yield Violation("dead-letter", f"{letter.id} is dead, but was not to fail so often", (letter.id,))
        if reason not in (RETRIES_EXHAUSTED, WORKER_LOST):
            yield Violation("dead-letter", f"{letter.id} is dead for the reason {reason!r}", (letter.id,))
        elif reason == RETRIES_EXHAUSTED and letter.attempt != 1 + MAX_RETRIES:
            yield Violation("dead-letter", f"{letter.id} is dead after attempt {letter.attempt}", (letter.id,))
    for message_id, reason in history.kept_dead.items():
        if reason != WORKER_LOST:
            yield Violation("dead-letter", f"{message_id} is kept in Redis for the reason {reason!r}", (message_id,))


def _too_early(how: str, message_id: str, attempt: int, waited_ns: int, due_ns: int) -> Violation:
    text = f"attempt {attempt} of {message_id} was {how} after {waited_ns / 1e6:.0f} ms, not {due_ns / 1e6:.0f} ms"
    return Violation("early", text, (message_id,))


def _first_failed(history: History) -> dict[tuple[str, int], int]:
    """Return the time of the first failure of each attempt of each id."""
    failed: dict[tuple[str, int], int] = {}
    for call in history.calls:
        if call.outcome == "failed" and call.end_ns is not None:
            name = call.id, call.attempt
            failed[name] = min(call.end_ns, failed.get(name, call.end_ns))
    return failed


def _last_commit(history: History) -> dict[int, int]:
    commits = sorted(history.commits, key=lambda commit: commit.ns)
    return dict(commits[-1].offsets) if commits else {}
