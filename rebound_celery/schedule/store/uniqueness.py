"""Storing messages of which only one with the same unique key may wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import envelope
from .envelope import from_id, to_id
from .keys import QueueKeys
from .script_runner import MAX_SLEEP_MS, ROUNDS, Call, run_script
from .values import Entry, Unique, UniqueEnd


def enqueue_unique(client: Any, keys: QueueKeys, entries: Sequence[tuple[Entry, Unique]]) -> list[UniqueEnd]:
    """Store messages; for each, under which id it or an earlier one waits."""
    ends: dict[int, UniqueEnd] = {}
    left: dict[int, list[str]] = {index: [] for index in range(len(entries))}
    for _ in range(ROUNDS):
        calls = [_call(keys, *entries[index], more) for index, more in left.items()]
        _, answers = run_script(client, "unique", calls)
        again: dict[int, list[str]] = {}
        for (index, more), (identity, event, needed) in zip(left.items(), answers, strict=True):
            if needed:
                # The message that waits is in a lane whose keys were not given.
                again[index] = [*more, from_id(needed)]
            else:
                ends[index] = UniqueEnd(from_id(identity), event.decode())
        left = again
        if not left:
            break
    # What changes its lane all the time is in a worker's hands: it is not waited for.
    for index in left:
        ends[index] = UniqueEnd(entries[index][0].id, "")
    return [ends[index] for index in range(len(entries))]


def _call(keys: QueueKeys, entry: Entry, unique: Unique, more: Sequence[str]) -> Call:
    reference = f"{keys.rank_of(entry.priority)}{entry.lane}"
    references = list(dict.fromkeys((reference, *more)))
    touched = [keys.messages, keys.leased, keys.leases, keys.limits, keys.next, keys.wake, keys.stats]
    touched += [keys.unique, keys.unique_times, *keys.of_lanes(references)]
    longest = "" if unique.max_wait_ms is None else unique.max_wait_ms
    arguments: list[Any] = [MAX_SLEEP_MS, to_id(unique.key), unique.how, longest, to_id(unique.ended_lane)]
    arguments += [to_id(entry.id), entry.due_ms, envelope.head(reference) + entry.stored, *map(to_id, references)]
    return Call(touched, arguments)
