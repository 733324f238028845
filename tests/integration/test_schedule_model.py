"""The schedule against a model of it: any order of changes, by several workers, on a clock that the test moves.

The scripts are the real ones, but for `TIME`: it is read from a key that the test sets.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rebound_celery.schedule.store import script_runner as scripting
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.transport import celery_form as stored

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = os.environ.get("REBOUND_TEST_FULL") == "1"

STEPS = (0, 3, 9)
LEASE_MS = 1_000
MAX_LOSSES = 2
START_MS = 1_800_000_000_000
CLOCK = "test-clock"
WORKERS = ("ann", "bob", "cid")

# Few of each, so that changes meet each other.
some_ids = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4, unique=True)
delays_ms = st.sampled_from([0, -5_000, -1, 1, 500, LEASE_MS, 3_600_000])
workers = st.sampled_from(WORKERS)


@dataclass
class Entry:
    """What the model knows of a message. `until` is set while a worker holds it or has let its lease run out."""

    nonce: bytes
    step: int
    due: int
    leases: int = 0
    until: int | None = None

    def is_free(self, now: int) -> bool:
        """Whether no worker has a right to it."""
        return self.until is None or self.until < now

    def is_due(self, now: int) -> bool:
        return self.due <= now if self.until is None else self.until < now

    @property
    def at(self) -> int:
        return self.due if self.until is None else self.until


@dataclass(frozen=True)
class Hold:
    """A lease in a worker's hand; the worker may not know that it has run out."""

    id: str
    nonce: bytes
    lease: int
    turn: int

    @property
    def token(self) -> bytes:
        return self.nonce + b"%d" % self.lease


class Schedule(RuleBasedStateMachine):
    """Makes every change in Redis and in the model, and compares what they say and what is there."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.store = Store(self.client, QueueKeys("", "q", STEPS))
        self.now = START_MS
        self._set_clock()
        self.entries: dict[str, Entry] = {}
        self.dead: dict[str, str] = {}
        self.gone: set[str] = set()
        self.hands: dict[str, list[Hold]] = {worker: [] for worker in WORKERS}
        self._turns = count(1)
        self._turn_of: dict[str, int] = {}
        self._nonces = count(1)

    def _set_clock(self) -> None:
        self.client.hset(CLOCK, mapping={"s": self.now // 1000, "us": self.now % 1000 * 1000})

    def _holds(self, worker: str, hold: Hold) -> bool:
        """Whether this is the lease that the message has now."""
        entry = self.entries.get(hold.id)
        return (
            entry is not None
            and entry.nonce == hold.nonce
            and entry.until is not None
            and self._turn_of.get(hold.id) == hold.turn
        )

    # changes

    @rule(passed=st.sampled_from([1, 500, LEASE_MS - 1, LEASE_MS, LEASE_MS + 1, 60_000]))
    def time_passes(self, passed: int) -> None:
        self.now += passed
        self._set_clock()

    @rule(names=some_ids, step=st.sampled_from(STEPS))
    def park_due(self, names: list[str], step: int) -> None:
        self.enqueue(names, step, 0, keep=False)

    @rule(names=some_ids, step=st.sampled_from(STEPS), delay=delays_ms, keep=st.booleans())
    def enqueue(self, names: list[str], step: int, delay: int, keep: bool) -> None:
        entries, new = [], 0
        for name in names:
            nonce = (next(self._nonces) << 8).to_bytes(8)
            entries.append((name, self.now + delay, stored.VERSION + nonce + b"body"))
            new += name not in self.entries
            if name not in self.entries or not keep:
                self.entries[name] = Entry(nonce, step, self.now + delay)
        assert self.store.enqueue(entries, step, keep=keep) == new

    @rule(worker=workers)
    def claim_all(self, worker: str) -> None:
        self.claim(worker, 10)

    @rule(worker=workers, limit=st.integers(1, 3))
    def claim(self, worker: str, limit: int) -> None:
        due = {name for name, entry in self.entries.items() if entry.is_due(self.now)}
        ready = sorted(
            (name for name in due if self.entries[name].leases < MAX_LOSSES),
            key=lambda name: (STEPS.index(self.entries[name].step), self.entries[name].at),
        )

        claim = self.store.claim(limit, LEASE_MS, MAX_LOSSES)
        claimed, died = [one.id.decode() for one in claim.messages], {name.decode() for name in claim.dead}

        assert died <= due - set(ready), "it died before its time"
        assert set(claimed) <= set(ready), "early, dead, or in another's hand"
        assert len(claimed) == len(set(claimed)) == min(limit, len(ready)) or (died and len(claimed) <= limit)
        if not due - set(ready):
            asked = [(STEPS.index(self.entries[name].step), self.entries[name].at) for name in claimed]
            best = [(STEPS.index(self.entries[name].step), self.entries[name].at) for name in ready[:limit]]
            assert asked == best, "the most urgent and oldest first"
        for one in claim.messages:
            name = one.id.decode()
            entry = self.entries[name]
            assert stored.nonce(one.stored) == entry.nonce
            assert one.losses == entry.leases
            entry.leases += 1
            entry.until = self.now + LEASE_MS
            self._turn_of[name] = next(self._turns)
            self.hands[worker].append(Hold(name, entry.nonce, entry.leases, self._turn_of[name]))
        for name in died:
            del self.entries[name]
            self.dead[name] = "worker-lost"
        self._check_next_due(claim.next_due_in_ms, set(claimed))

    def _check_next_due(self, next_due_in_ms: int | None, claimed: set[str]) -> None:
        """A worker may look too soon, but never too late."""
        others = [entry for name, entry in self.entries.items() if name not in claimed]
        if any(entry.is_due(self.now) for entry in others):
            assert next_due_in_ms == 0
            assert self.client.llen(self.store.keys.wake) == 1, "another worker may be asleep"
        elif others:
            # A lease ends within the millisecond after `until`.
            nearest = min(entry.at + (entry.until is not None) for entry in others) - self.now
            assert next_due_in_ms is not None
            assert next_due_in_ms <= nearest

    def _someone(self, number: int) -> str:
        """A worker that holds something."""
        busy = [worker for worker in WORKERS if self.hands[worker]]
        return busy[number % len(busy)]

    def _settle(self, worker: str, what: str, *, mine_only: bool) -> None:
        holds = [hold for hold in self.hands[worker] if not mine_only or self._holds(worker, hold)]
        expected = 0
        for hold in holds:
            self.hands[worker].remove(hold)
            entry = self.entries.get(hold.id)
            if entry is None or entry.nonce != hold.nonce:
                continue
            expected += 1
            if what in ("release", "lost"):
                if what == "release":
                    entry.leases -= 1
                    # The next lease has the same number, so it is named by another nonce.
                    entry.nonce = entry.nonce[:7] + bytes([(entry.nonce[7] + 1) % 256])
                entry.until, entry.due = None, self.now
            else:
                del self.entries[hold.id]
                if what != "done":
                    self.dead[hold.id] = what
        assert self.store.settle([(hold.id.encode(), hold.token, what) for hold in holds]) == expected

    @precondition(lambda self: any(self.hands.values()))
    @rule(number=st.integers(0, 2), what=st.sampled_from(["done", "unreadable"]))
    def finish(self, number: int, what: str) -> None:
        """Work that is done is done, also when its lease has run out meanwhile; not if it was stored anew."""
        self._settle(self._someone(number), what, mine_only=False)

    @precondition(lambda self: any(self.hands.values()))
    @rule(number=st.integers(0, 2), what=st.sampled_from(["release", "lost"]))
    def give_back(self, number: int, what: str) -> None:
        self._settle(self._someone(number), what, mine_only=True)

    @precondition(lambda self: any(self.hands.values()))
    @rule(number=st.integers(0, 2))
    def renew(self, number: int) -> None:
        worker = self._someone(number)
        holds, expected = [], 0
        for hold in self.hands[worker]:
            entry = self.entries.get(hold.id)
            if self._holds(worker, hold):
                assert entry is not None
                entry.until = self.now + LEASE_MS
                expected += 1
            elif entry is not None and entry.nonce == hold.nonce and (entry.until is not None or entry.leases):
                continue  # another has it, or had it since: as good as his renewal
            holds.append(hold)
        assert self.store.renew([(hold.id.encode(), hold.nonce) for hold in holds], LEASE_MS) == expected

    @precondition(lambda self: any(self.hands.values()))
    @rule(number=st.integers(0, 2))
    def die(self, number: int) -> None:
        """kill -9: nobody renews or ends its leases any more, and they run out."""
        self.hands[self._someone(number)].clear()
        self.time_passes(LEASE_MS + 1)

    @rule(names=some_ids)
    def cancel(self, names: list[str]) -> None:
        there = [name for name in names if self.entries.pop(name, None)]
        assert self.store.cancel(*names) == len(there)

    @rule(names=some_ids)
    def withdraw(self, names: list[str]) -> None:
        there = [name for name in names if name in self.entries and self.entries[name].is_free(self.now)]
        nonces = [self.entries.pop(name).nonce for name in there]
        assert [stored.nonce(body) for body in self.store.withdraw(*names)] == nonces

    @rule(names=some_ids, delay=st.none() | delays_ms)
    def move(self, names: list[str], delay: int | None) -> None:
        """Run now, or at another time."""
        free = [name for name in names if name in self.entries and self.entries[name].is_free(self.now)]
        due = self.now + (delay or 0)
        for name in free:
            entry = self.entries[name]
            entry.due, entry.until = due, None
        done = self.store.run_now(*names) if delay is None else self.store.reschedule(due, *names)
        assert done == len(free)

    @precondition(lambda self: len(self.entries) > 3)
    @rule()
    def purge(self) -> None:
        assert self.store.purge() == len(self.entries)
        self.entries.clear()

    # what always holds

    @invariant()
    def what_is_there_is_what_the_model_has(self) -> None:
        listed = self.store.list(0, 100)
        assert self.store.count() == len(self.entries)
        assert sorted(waiting.id for waiting in listed) == sorted(self.entries), "each in one step only"
        for waiting in listed:
            entry = self.entries[waiting.id]
            # What was given back is due in any case.
            assert waiting.due_ms == entry.at or max(waiting.due_ms, entry.at) <= self.now
        assert {identity: reason for identity, reason, _ in self.store.dead()} == self.dead
        assert self.client.llen(self.store.keys.wake) <= 1

    @rule()
    def look_through_the_pages(self) -> None:
        whole = [waiting.id for waiting in self.store.list(0, 100)]
        assert [waiting.id for start in range(0, 6, 2) for waiting in self.store.list(start, 2)] == whole


@pytest.fixture
def client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """A client whose scripts read the test's clock."""
    sources = {
        name: source.replace("redis.call('TIME')", f"redis.call('HMGET', '{CLOCK}', 's', 'us')")
        for name, source in scripting._SOURCES.items()
    }
    monkeypatch.setattr(scripting, "_SOURCES", sources)
    monkeypatch.setattr(scripting, "_hashes", {})
    with redis.Redis.from_url(redis_url) as connection:
        yield connection


def test_any_order_of_changes_does_what_the_model_says(client: redis.Redis):
    def machine() -> Any:
        return type("Schedule", (Schedule,), {"client": client})()

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=3_000 if FULL else 120,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, QueueKeys("", "q", STEPS))


def clock(client: redis.Redis, ms: int) -> None:
    client.hset(CLOCK, mapping={"s": ms // 1000, "us": ms % 1000 * 1000})


def hold(store: Store) -> tuple[bytes, bytes]:
    """Park a message and claim it: its id and token."""
    store.enqueue([("a", START_MS, stored.VERSION + b"noncenon" + b"body")], 0, keep=True)
    (claimed,) = store.claim(1, LEASE_MS, MAX_LOSSES).messages
    return claimed.id, claimed.token


@pytest.mark.parametrize("what", ["release", "lost"])
@pytest.mark.parametrize("meanwhile", ["another worker claimed it", "it was given back, and claimed", "it was moved"])
def test_lease_that_a_worker_no_longer_has_cannot_be_given_back(
    client: redis.Redis, store: Store, what: str, meanwhile: str
):
    """A worker that was suspended, or whose give-back was answered too late and is sent again."""
    clock(client, START_MS)
    old = hold(store)
    clock(client, START_MS + LEASE_MS + 1)
    if meanwhile == "it was moved":
        assert store.reschedule(START_MS + 3_600_000, "a") == 1
    else:
        if meanwhile == "it was given back, and claimed":
            assert store.settle([(*old, what)]) == 1
        hold(store)
    before = store.list()

    store.settle([(*old, what)])

    assert store.list() == before
    assert store.claim(1, LEASE_MS, MAX_LOSSES).messages == [], "it is in two hands, or early"


def test_message_that_was_moved_is_not_renewed(client: redis.Redis, store: Store):
    clock(client, START_MS)
    old = hold(store)
    clock(client, START_MS + LEASE_MS + 1)
    assert store.run_now("a") == 1

    assert store.renew([(old[0], old[1][: stored.NONCE_BYTES])], LEASE_MS) == 0
    assert len(store.claim(1, LEASE_MS, MAX_LOSSES).messages) == 1
