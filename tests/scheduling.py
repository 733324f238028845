"""Helpers for tests of the schedule: entries, confirmed claims, and the list of all stored data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from rebound_celery.schedule.store import envelope
from rebound_celery.schedule.store.claims import DONE, ClaimId, End
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.store.values import Claimed, Entry, Waiting
from rebound_celery.schedule.transport import celery_form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rebound_celery.delivery.delivery import Delivery
    from rebound_celery.schedule.port import Hold, Tally
    from rebound_celery.schedule.store.values import DeadEntry

LEASE_MS = 60_000
CONFIRM_MS = 5_000

_workers = count(1)


def keep_in(stored: list[Delivery]) -> Callable[..., None]:
    """What a `Batch` stores with: it keeps each delivery, waiting or held."""

    def store(deliveries: Sequence[Delivery], *, hold: Hold | None = None, tally: Tally | None = None) -> None:
        stored.extend(deliveries)

    return store


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def entry(identity: str, due_ms: int, number: int = 0, *, lane: str = "", priority: int = 0) -> Entry:
    """A message of Celery's form; `number` tells it from others with its id."""
    stored = celery_form.encode({"headers": {"id": identity}, "properties": {"number": number}})
    return Entry(identity, due_ms, stored, lane, priority)


def number_of(stored: bytes) -> int:
    """The number of a message that `entry` made."""
    number: int = celery_form.decode(stored)["properties"]["number"]
    return number


@dataclass(frozen=True)
class Taken:
    """What a worker has claimed."""

    messages: list[Claimed]
    tokens: list[str]
    next_in_ms: int | None

    @property
    def ids(self) -> list[str]:
        return [claimed.id for claimed in self.messages]

    @property
    def leases(self) -> list[tuple[str, str]]:
        return list(zip(self.ids, self.tokens, strict=True))


def take(store: Store, limit: int = 10, lease_ms: int = LEASE_MS, *, lanes: Sequence[str] = ()) -> Taken:
    """Claim as a worker of its own, in as many rounds as its lanes need, and confirm."""
    worker, known = f"worker-{next(_workers)}", list(lanes)
    messages: list[Claimed] = []
    tokens: list[str] = []
    for number in range(1, 20):
        claim_id = ClaimId(worker, number)
        claim = store.claim(claim_id, limit - len(messages), lease_ms, min(lease_ms, CONFIRM_MS), known)
        if claim.messages:
            assert store.confirm(claim_id)
        messages += claim.messages
        tokens += [claim_id.token] * len(claim.messages)
        if not claim.unknown or len(messages) >= limit:
            break
        known += claim.unknown
    return Taken(messages, tokens, claim.next_in_ms)


def settle(store: Store, taken: Taken, what: str = DONE) -> int:
    """End all leases of a claim in the same way."""
    return store.settle([End(identity, token, what) for identity, token in taken.leases])


def everything(store: Store) -> list[Waiting]:
    """All that waits or is leased."""
    return store.page(count=10_000).entries + store.page(count=10_000, leased=True).entries


def dead_entries(store: Store) -> list[DeadEntry]:
    """All dead letters."""
    return store.dead(count=10_000).letters


def raw(stored: bytes, *, lane: str = "", rank: int = 0, losses: int = 0) -> bytes:
    """A stored form as it lies in Redis."""
    head = envelope.head(f"{rank}{lane}")
    return bytes([losses]) + head[1:] + stored
