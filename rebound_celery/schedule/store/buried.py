"""The dead letters of a queue: keeping, removing and reading one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from . import envelope
from .envelope import to_id
from .keys import QueueKeys
from .script_runner import Call, chunks, run_script
from .values import DeadEntry


def bury(client: Any, keys: QueueKeys, letters: Sequence[DeadEntry]) -> None:
    """Keep dead letters. An id that is kept already gets the new letter."""

    def call(chunk: Sequence[DeadEntry]) -> Call:
        parts = (
            (to_id(letter.id), "" if letter.died_ms is None else letter.died_ms, envelope.seal_letter(letter))
            for letter in chunk
        )
        return Call(_keys(keys), list(chain.from_iterable(parts)))

    run_script(client, "bury", map(call, chunks(letters)))


def remove(client: Any, keys: QueueKeys, ids: Sequence[str]) -> int:
    """Remove dead letters; returns how many there were."""
    calls = (Call(_keys(keys), list(map(to_id, chunk))) for chunk in chunks(ids))
    return sum(run_script(client, "unbury", calls)[1])


def expire(client: Any, keys: QueueKeys, age_ms: int, most: int) -> int:
    """Remove dead letters that are older than `age_ms`, the oldest first; returns how many."""
    return int(run_script(client, "expire", [Call(_keys(keys), [age_ms, most])])[1][0])


def get(client: Any, keys: QueueKeys, identity: str) -> DeadEntry | None:
    """The dead letter with this id, or None."""
    with client.pipeline(transaction=False) as pipe:
        pipe.hget(keys.dead, to_id(identity))
        pipe.zscore(keys.dead_times, to_id(identity))
        letter, died_ms = pipe.execute()
    if letter is None:
        return None
    return envelope.open_letter(identity, letter, None if died_ms is None else int(died_ms))


def _keys(keys: QueueKeys) -> list[str]:
    return [keys.dead, keys.dead_times, keys.stats]
