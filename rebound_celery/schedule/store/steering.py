"""Steering what waits: other due times, removal, and the limits of lanes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .envelope import from_id, to_id
from .keys import QueueKeys
from .script_runner import MAX_SLEEP_MS, ROUNDS, Call, chunks, run_script


def cancel(client: Any, keys: QueueKeys, ids: Sequence[str], *, leased: bool) -> dict[str, bytes]:
    """Remove messages that wait, or with `leased` all; returns their stored forms by their ids."""
    moved = _move(client, keys, "cancel-all" if leased else "cancel", ids)
    return {
        from_id(identity): stored
        for _, removed in moved
        for identity, stored in zip(removed[::2], removed[1::2], strict=True)
    }


def move(client: Any, keys: QueueKeys, when: str | int, ids: Sequence[str]) -> int:
    """Change when messages are due: "now", or a time; returns how many there were."""
    return sum(count for count, _ in _move(client, keys, when, ids))


def _move(client: Any, keys: QueueKeys, what: str | int, ids: Sequence[str]) -> Iterator[tuple[int, list[bytes]]]:
    touched = [keys.messages, keys.leased, keys.leases, keys.limits, keys.next, keys.wake, keys.stats]
    touched += keys.of_chains
    for chunk in chunks(ids):
        left: list[bytes] = [to_id(id_) for id_ in chunk]
        references = ["0"]
        for _ in range(ROUNDS):
            arguments = [what, MAX_SLEEP_MS, len(references), *references, *left]
            call = Call([*touched, *keys.of_lanes(references)], arguments)
            _, ((count, needed, left, removed),) = run_script(client, "move", [call])
            yield count, removed
            if not left:
                break
            references = list(dict.fromkeys((*references, *map(from_id, needed))))


def limit(client: Any, keys: QueueKeys, lane: str, what: str, value: float) -> None:
    """Set a limit of a lane: until when it is "paused", its "rate", or the rate that is "configured"; 0 ends it."""
    lanes = keys.of_lanes(f"{rank}{lane}" for rank in keys.ranks)
    touched = [keys.limits, keys.breakers, keys.configured, keys.next, keys.wake, *lanes]
    call = Call(touched, [lane, what, value])
    run_script(client, "limit", [call])


def set_rate(client: Any, keys: QueueKeys, lane: str, per_second: float | None, what: str) -> None:
    """Set the "rate" of a lane, or the one that is "configured"; None ends it."""
    if per_second is not None and not 0 < per_second <= 1e6:
        raise ValueError(f"per_second={per_second!r} cannot be used: it is more than 0, or None for no limit")
    limit(client, keys, lane, what, 0 if per_second is None else per_second)


def purge(client: Any, keys: QueueKeys) -> int:
    """Remove all messages, waiting and leased; returns how many there were."""
    references: list[str] = []
    for _ in range(ROUNDS):
        touched = [keys.messages, keys.stats, keys.wake, *keys.of_chains, *map(keys.lanes, keys.ranks)]
        touched += map(keys.waiting, references)
        touched += [keys.leased, keys.leases, keys.claims, keys.unconfirmed, keys.next]
        call = Call(touched, [len(keys.ranks), *keys.ranks, *references])
        _, ((count, needed),) = run_script(client, "purge", [call])
        if not needed:
            return int(count)
        references += map(from_id, needed)
    return 0
