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
    for chunk in chunks(ends):
        left, needed = list(chunk), [end.reference for end in chunk if end.what != DONE]
        for _ in range(ROUNDS):
            references = list(dict.fromkeys(filter(None, needed)))
            done = [end for end in left if end.what == DONE]
            others = [end for end in left if end.what != DONE]
            arguments: list[Any] = [len(references), *references, len(done)]
            for end in done:
                arguments += (to_id(end.id), end.token)
            for end in others:
                arguments += (to_id(end.id), end.token, _what(end.what))
            call = Call([*touched, *keys.of_lanes(references)], arguments)
            _, ((count, missing, positions),) = run_script(client, "settle", [call])
            settled += count
            if not positions:
                break
            first = len(references) + 3
            left = [
                done[(position - first) // 2]
                if position < first + 2 * len(done)
                else others[(position - first - 2 * len(done)) // 3]
                for position in positions
            ]
            needed = [*references, *map(from_id, missing)]
    return settled


def _what(what: str) -> str:
    return what if what in {RELEASE, LOST} else ":" + what.replace("\n", " ")
