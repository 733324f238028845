"""The dead letters of a queue: keeps, removes and reads them, and replaces them by messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from . import envelope
from .envelope import to_id
from .jobs import JobClaim, StepOverError
from .keys import QueueKeys
from .script_runner import MAX_SLEEP_MS, Call, chunks, run_script
from .values import DeadEntry, Revival

#: How many numbers of a series one key of Redis has: 8 KB.
_BLOCK = 65_536


def keep(client: Any, keys: QueueKeys, letters: Sequence[DeadEntry]) -> None:
    """Keep dead letters. An id that is kept already gets the new letter."""

    def call(chunk: Sequence[DeadEntry]) -> Call:
        parts = (
            (to_id(letter.id), "" if letter.died_ms is None else letter.died_ms, envelope.seal_letter(letter))
            for letter in chunk
        )
        return Call(_keys(keys), list(chain.from_iterable(parts)))

    run_script(client, "keep_dead", map(call, chunks(letters)))


def remove(client: Any, keys: QueueKeys, ids: Sequence[str]) -> int:
    """Remove dead letters; returns how many there were."""
    calls = (Call(_keys(keys), list(map(to_id, chunk))) for chunk in chunks(ids))
    return sum(run_script(client, "remove_dead", calls)[1])


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


def revive(
    client: Any, keys: QueueKeys, revivals: Sequence[Revival], *, again: bool, claim: JobClaim | None
) -> list[bool]:
    """Store messages that take the place of dead letters; returns which were stored.

    Raises:
        StepOverError: if the step of the job that does it is over.
    """
    calls = (_revive_call(keys, chunk, claim, again=again) for chunk in chunks(revivals))
    answers = run_script(client, "revive", calls)[1]
    if None in answers:
        raise StepOverError
    return [bool(one) for answer in answers for one in answer]


def _revive_call(keys: QueueKeys, revivals: Sequence[Revival], claim: JobClaim | None, *, again: bool) -> Call:
    references = [f"{keys.rank_of(entry.priority)}{entry.lane}" for entry, *_ in revivals]
    lanes = list(dict.fromkeys(references))
    blocks = list(dict.fromkeys(_block(each) for each in revivals if each.dead_id is None))
    step = ("", b"") if claim is None else (claim.token, claim.underway)
    how = int(again)
    taken = [keys.revived(block) for block in blocks]
    if again and claim is not None:
        how = 2
        taken += [keys.revived(f"job:{claim.id}:{block}") for block in blocks]
    arguments: list[Any] = [MAX_SLEEP_MS, how, *step, len(lanes), *lanes]
    for reference, each in zip(references, revivals, strict=True):
        entry, dead_id = each.entry, each.dead_id
        block = 0 if dead_id is not None else blocks.index(_block(each)) + 1
        what = to_id(dead_id) if dead_id is not None else each.number % _BLOCK
        stored = envelope.head(reference) + entry.stored
        arguments += (lanes.index(reference) + 1, block, what, each.counter, to_id(entry.id), entry.due_ms, stored)
    common = [keys.messages, keys.limits, keys.next, keys.wake, keys.stats, keys.dead, keys.dead_times]
    job = () if claim is None else (keys.job(claim.id),)
    return Call([*common, *keys.of_lanes(lanes), *taken, *job], arguments)


def _block(revival: Revival) -> str:
    return f"{revival.series}:{revival.number // _BLOCK}"


def _keys(keys: QueueKeys) -> list[str]:
    return [keys.dead, keys.dead_times, keys.stats]
