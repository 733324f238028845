"""Ending leases: what is done or dead is removed, and what is released waits again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .claims import DONE, LOST, RELEASE, End
from .envelope import from_id, to_id
from .keys import QueueKeys
from .script_runner import ROUNDS, Call, chunks, run_script


def settle(client: Any, keys: QueueKeys, ends: Sequence[End]) -> int:
    """End leases; returns how many were not void."""
    touched = [keys.messages, keys.leased, keys.leases, keys.limits, keys.next, keys.wake, keys.stats]
    touched += [keys.dead, keys.dead_times, *keys.of_chains]
    settled = 0
    counted: set[int] = set()
    for chunk in chunks(ends):
        left, needed = list(chunk), [end.reference for end in chunk if end.what != DONE]
        for _ in range(ROUNDS):
            references = list(dict.fromkeys(filter(None, needed)))
            done, tallies = _with_tallies([end for end in left if end.what == DONE], counted)
            others = [end for end in left if end.what != DONE]
            arguments: list[Any] = [len(references), *references, *tallies, len(done)]
            for end in done:
                arguments += (to_id(end.id), end.token)
            for end in others:
                arguments += (to_id(end.id), end.token, _what(end.what))
            call = Call([*touched, *keys.of_lanes(references)], arguments)
            _, ((count, missing, positions),) = run_script(client, "settle", [call])
            settled += count
            if not positions:
                break
            first = len(references) + len(tallies) + 3
            left = [
                done[(position - first) // 2]
                if position < first + 2 * len(done)
                else others[(position - first - 2 * len(done)) // 3]
                for position in positions
            ]
            needed = [*references, *map(from_id, missing)]
    return settled


def _with_tallies(done: Sequence[End], counted: set[int]) -> tuple[Sequence[End], list[Any]]:
    """Those that are done, with those of a tally together, and the tallies as the script takes them.

    A tally that was sent before is not sent again: its ends are in several calls.
    """
    groups: dict[int, list[End]] = {}
    for end in done:
        is_new = end.tally is not None and id(end.tally) not in counted
        groups.setdefault(id(end.tally) if is_new else 0, []).append(end)
    rest = groups.pop(0, [])
    arguments: list[Any] = [len(groups)]
    for identity, its in groups.items():
        counted.add(identity)
        assert its[0].tally is not None
        of_tally = its[0].tally.arguments
        arguments += (len(its), len(of_tally), *of_tally)
    return [*(end for its in groups.values() for end in its), *rest], arguments


def _what(what: str) -> str:
    return what if what in {RELEASE, LOST} else ":" + what.replace("\n", " ")
