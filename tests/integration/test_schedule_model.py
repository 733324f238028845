"""The schedule compared with a model: changes in any order, by several workers, on a clock that the test moves.

The scripts are the real ones, except for `TIME`, which they read from a key that the test sets.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rebound_celery.schedule.store import script_runner
from rebound_celery.schedule.store.claims import ClaimId, End
from rebound_celery.schedule.store.jobs import JobClaim, StepMessage, StepOverError
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.store.values import BreakerRules, Claimed, LaneReport, Revival, Unique, UniqueEnd
from rebound_celery.schedule.store.values import Entry as Stored
from tests.scheduling import everything, take

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = os.environ.get("REBOUND_TEST_FULL") == "1"

STEPS = (0, 3, 9)
LANES = ("", "kafka:orders")
LEASE_MS = 1_000
CONFIRM_MS = 300
START_MS = 1_800_000_000_000
CLOCK = "test-clock"
#: No number of failures in this test opens a breaker.
RULES = BreakerRules(1.0, 100_000, 10_000, 1_000, 60_000, 5_000, 100.0)
WORKERS = ("ann", "bob", "cid")

# Few of each, so that changes meet each other.
some_ids = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=4, unique=True)
delays_ms = st.sampled_from([0, -5_000, -1, 1, 500, LEASE_MS, 3_600_000])
workers = st.sampled_from(WORKERS)
steps = st.sampled_from(STEPS)
lanes = st.sampled_from(LANES)


@dataclass
class Message:
    """What the model knows of a message. `until` is set while there is a lease on it."""

    stored: bytes
    step: int
    lane: str
    due: int
    losses: int = 0
    token: str | None = None
    until: int | None = None
    #: Until when its claim has to be confirmed.
    confirm_by: int | None = None

    def end_lease(self, now: int, *, keep_token: bool = False) -> None:
        self.until = self.confirm_by = None
        self.due = min(self.due, now)
        if not keep_token:
            self.token = None


@dataclass
class Worker:
    """A worker: its claims, and the leases in its hand; it may not know that some have run out."""

    name: str
    number: int = 1
    #: The ids that its last claim leased, while it has not heard of that.
    unconfirmed: list[str] | None = None
    hand: list[tuple[str, str]] = field(default_factory=list)


class Schedule(RuleBasedStateMachine):
    """Makes every change in Redis and in the model, and compares what they say and what is there."""

    client: redis.Redis

    def __init__(self) -> None:
        super().__init__()
        self.client.flushdb()
        self.store = Store(self.client, QueueKeys("", "q", STEPS))
        self.now = START_MS
        self._set_clock()
        self.messages: dict[str, Message] = {}
        self.dead: dict[str, str] = {}
        #: Numbers of dead letters that are kept elsewhere.
        self.taken: set[int] = set()
        self.paused: dict[str, int] = {}
        #: Lanes whose circuit breaker is open.
        self.broken: set[str] = set()
        #: unique key -> when a message with it was first stored, and its id.
        self.unique: dict[str, tuple[int, str]] = {}
        self.workers = {name: Worker(name) for name in WORKERS}
        self.stats: dict[str, int] = {}
        self._forms = count(1)
        #: The state of the job, and the token of its step.
        self.job: str | None = None
        self.job_token: str | None = None

    def _set_clock(self) -> None:
        self.client.hset(CLOCK, mapping={"s": self.now // 1000, "us": self.now % 1000 * 1000})

    def _count(self, name: str, number: int) -> None:
        if number:
            self.stats[name] = self.stats.get(name, 0) + number

    def _is_open(self, lane: str) -> bool:
        return lane not in self.broken and self.paused.get(lane, 0) <= self.now

    def _put_back(self) -> None:
        """What each claim does first."""
        for message in self.messages.values():
            if message.confirm_by is not None and message.confirm_by <= self.now:
                message.end_lease(self.now)
                self._count("unconfirmed", 1)
            elif message.until is not None and message.until <= self.now:
                message.end_lease(self.now, keep_token=True)
                message.losses += 1
                self._count("ran_out", 1)

    # time and storing

    @rule(passed=st.sampled_from([1, CONFIRM_MS - 1, CONFIRM_MS, 500, LEASE_MS, 60_000]))
    def time_passes(self, passed: int) -> None:
        self.now += passed
        self._set_clock()

    @rule(names=some_ids, step=steps, lane=lanes)
    def enqueue_due(self, names: list[str], step: int, lane: str) -> None:
        self.enqueue(names, step, lane, 0, keep=False)

    @rule(names=some_ids, step=steps, lane=lanes, delay=delays_ms, keep=st.booleans())
    def enqueue(self, names: list[str], step: int, lane: str, delay: int, keep: bool) -> None:
        entries, new = [], 0
        for name in names:
            entries.append(Stored(name, self.now + delay, b"form %d" % next(self._forms), lane, step))
            new += name not in self.messages
            if name not in self.messages or not keep:
                self._count("replaced", name in self.messages)
                self.messages[name] = Message(entries[-1].stored, step, lane, self.now + delay)
        self._count("stored", new)
        assert self.store.enqueue(entries, keep=keep) == new

    @rule(key=st.sampled_from(["k", "l"]), how=st.sampled_from(["keep", "replace", "extend"]), delay=delays_ms)
    def enqueue_due_unique(self, key: str, how: str, delay: int) -> None:
        self.enqueue_unique(key, how, delay, STEPS[0], LANES[0], None)

    @rule(
        key=st.sampled_from(["k", "l"]),
        how=st.sampled_from(["keep", "replace", "extend"]),
        delay=delays_ms,
        step=steps,
        lane=lanes,
        max_wait=st.sampled_from([None, 1, 1_000]),
    )
    def enqueue_unique(self, key: str, how: str, delay: int, step: int, lane: str, max_wait: int | None) -> None:
        number = next(self._forms)
        new = Message(b"form %d" % number, step, lane, self.now + delay)
        first, name = self.unique.get(key, (0, ""))
        old = self.messages.get(name)
        if old is not None and old.until is None:
            event = "kept" if how == "keep" else "replaced"
            if how == "replace":
                new.due = old.due
            elif max_wait is not None:
                new.due = min(new.due, first + max_wait)
        else:
            event, name = "stored", f"u{number}"
            if how == "extend" and max_wait is not None:
                new.due = min(new.due, self.now + max_wait)
            self.unique[key] = self.now, name
        entry = Stored(f"u{number}", self.now + delay, new.stored, lane, step)
        assert self.store.enqueue_unique([(entry, Unique(key, how, max_wait))]) == [UniqueEnd(name, event)]
        if event != "kept":
            self._count(event, 1)
            self.messages[name] = new

    @rule(
        places=st.lists(st.tuples(some_ids.map(lambda names: names[0]), st.none() | st.integers(0, 2)), max_size=4),
        step=steps,
        lane=lanes,
        delay=delays_ms,
        again=st.booleans(),
    )
    def revive(self, places: list[tuple[str, int | None]], step: int, lane: str, delay: int, again: bool) -> None:
        revivals, stored = [], []
        for name, number in places:
            entry = Stored(name, self.now + delay, b"form %d" % next(self._forms), lane, step)
            # A message takes the place of the dead letter with its id, or of one with a number that is kept elsewhere.
            dead_id = name if number is None else None
            revivals.append(Revival(entry, dead_id, "series", 65_535 + (number or 0)))
            is_new = name not in self.messages
            if is_new and number is None:
                is_new = self.dead.pop(name, None) is not None
            elif is_new and number is not None:
                is_new = again or number not in self.taken
                self.taken.add(number)
            stored.append(is_new)
            if is_new:
                self.messages[name] = Message(entry.stored, step, lane, self.now + delay)
        self._count("stored", sum(stored))
        self._count("revived", sum(stored))
        assert self.store.revive(revivals, again=again) == stored

    # jobs

    def _put_job(self, due: int, step: StepMessage) -> None:
        self._count("replaced" if step.id in self.messages else "stored", 1)
        self.messages[step.id] = Message(step.stored, step.priority, step.lane, due)

    def _take_job_away(self, step: StepMessage) -> None:
        if self.messages.pop(step.id, None) is not None:
            self._count("cancelled", 1)

    def _job_step(self) -> StepMessage:
        return StepMessage("job-message", b"form %d" % next(self._forms), LANES[1], 3)

    @rule(leased=st.booleans())
    def cancel_the_message_of_the_job(self, leased: bool) -> None:
        self.cancel(["job-message"], leased)

    @rule(what=st.sampled_from(["add", "pause", "resume", "abort"]))
    def change_job(self, what: str) -> None:
        step, state = self._job_step(), self.job
        if what == "add":
            assert self.store.jobs.add("job", b"spec", step)
            changed = state is None
        else:
            is_stalled = state == "running" and step.id not in self.messages
            possible = {
                "pause": state == "running",
                "resume": state in ("paused", "failed") or is_stalled,
                "abort": state in ("running", "paused"),
            }
            changed = possible[what]
            assert self.store.jobs.change("job", what, step, 3_600_000) == (state or "", changed)
        if changed and what in ("add", "resume"):
            self.job, self.job_token = "running", None
            self._put_job(self.now, step)
        elif changed:
            self.job = "paused" if what == "pause" else "aborted"
            self._take_job_away(step)

    @rule(what=st.sampled_from(["take", "save", "again", "end"]), token=st.sampled_from(["x", "y"]), delay=delays_ms)
    def make_a_step_of_the_job(self, what: str, token: str, delay: int) -> None:
        step, is_running = self._job_step(), self.job == "running"
        if what == "take":
            assert (self.store.jobs.take("job", token, step) is not None) == is_running
            self.job_token = token if is_running else self.job_token
            return
        claim, is_mine = JobClaim("job", token), is_running and self.job_token == token
        again_ms = None if what == "save" else max(0, delay)
        try:
            if what == "end":
                self.store.jobs.end(claim, b"", step, "failed" if delay < 0 else "done", 3_600_000)
            else:
                self.store.jobs.save(claim, b"", step, again_ms=again_ms)
        except StepOverError:
            assert not is_mine
            return
        assert is_mine
        if what == "end":
            self.job = "failed" if delay < 0 else "done"
        elif again_ms is not None:
            self._put_job(self.now + again_ms, step)
        elif step.id in self.messages:
            self.messages[step.id].losses = 0

    # claims

    @rule(name=workers, limit=st.sampled_from([1, 2, 3, 10]), knows_lanes=st.booleans(), heard=st.booleans())
    def claim(self, name: str, limit: int, knows_lanes: bool, heard: bool) -> None:
        worker = self.workers[name]
        if worker.unconfirmed is not None:
            self._give_up(worker)
        known = [f"{step}{lane}" for step in STEPS for lane in LANES] if knows_lanes else []
        found: list[Claimed] = []
        tokens: list[str] = []
        self._put_back()
        due = {
            identity
            for identity, message in self.messages.items()
            if message.until is None and message.due <= self.now and self._is_open(message.lane)
        }
        while True:
            claim_id = ClaimId(name, worker.number)
            claim = self.store.claim(claim_id, limit - len(found), LEASE_MS, CONFIRM_MS, known)
            found += claim.messages
            tokens += [claim_id.token] * len(claim.messages)
            is_last = not claim.unknown or len(found) >= limit
            if claim.messages and (heard or not is_last):
                assert self.store.confirm(claim_id)
                worker.number += 1
            if is_last:
                break
            known += claim.unknown
        ids = [claimed.id for claimed in found]
        assert set(ids) <= due, "early, dead, paused, or in another's hand"
        assert len(ids) == len(set(ids)) == min(limit, len(due))
        ranks = sorted(STEPS.index(self.messages[identity].step) for identity in due)[:limit]
        assert sorted(STEPS.index(self.messages[identity].step) for identity in ids) == ranks, "the most urgent first"
        last = [claimed.id for claimed in claim.messages]
        for claimed, token in zip(found, tokens, strict=True):
            message = self.messages[claimed.id]
            assert (claimed.stored, claimed.losses) == (message.stored, message.losses)
            assert (claimed.lane, claimed.priority) == (message.lane, message.step)
            message.token, message.until = token, self.now + LEASE_MS
            if heard or claimed.id not in last:
                worker.hand.append((claimed.id, token))
            else:
                message.confirm_by = self.now + CONFIRM_MS
        if not heard and last:
            worker.unconfirmed = last
        self._count("claimed", len(found))
        self._check_next(claim.next_in_ms)

    def _check_next(self, next_in_ms: int | None) -> None:
        """A worker may look too soon, but never too late."""
        moments = [
            min(m.until, m.confirm_by or m.until) if m.until is not None else max(m.due, self.paused.get(m.lane, 0))
            for m in self.messages.values()
            if m.until is not None or m.lane not in self.broken
        ]
        if moments:
            assert next_in_ms is not None
            assert next_in_ms <= max(0, min(moments) - self.now)
            if min(moments) <= self.now:
                assert self.client.llen(self.store.keys.wake) == 1, "another worker may be asleep"

    @precondition(lambda self: any(worker.unconfirmed is not None for worker in self.workers.values()))
    @rule(number=st.integers(0, 2), limit=st.integers(0, 3))
    def ask_again(self, number: int, limit: int) -> None:
        """The answer was lost; asked with the same id, Redis gives the same messages, or nothing once it is over."""
        asking = [worker for worker in self.workers.values() if worker.unconfirmed is not None]
        worker = asking[number % len(asking)]
        claim_id = ClaimId(worker.name, worker.number)
        mine = [
            identity
            for identity in worker.unconfirmed or ()
            if identity in self.messages and self.messages[identity].token == claim_id.token
        ]
        for identity in mine:
            self.messages[identity].until = self.now + LEASE_MS
            self.messages[identity].confirm_by = self.now + CONFIRM_MS
        self._put_back()

        claim = self.store.claim(claim_id, limit, LEASE_MS, CONFIRM_MS, [])

        assert sorted(claimed.id for claimed in claim.messages) == sorted(mine)
        for claimed in claim.messages:
            assert (claimed.stored, claimed.losses) == (
                self.messages[claimed.id].stored,
                self.messages[claimed.id].losses,
            )
        if claim.unknown:
            # What ran out elsewhere could not be put back without its lane.
            self._look()
        if claim.messages:
            assert self.store.confirm(claim_id)
            for identity in mine:
                self.messages[identity].confirm_by = None
                worker.hand.append((identity, claim_id.token))
        worker.unconfirmed = None
        worker.number += 1

    def _give_up(self, worker: Worker) -> None:
        """A worker that claims anew has given up the claim before: its messages wait, and have lost nothing."""
        token = ClaimId(worker.name, worker.number).token
        for identity in worker.unconfirmed or ():
            message = self.messages.get(identity)
            if message is not None and message.token == token and message.until is not None:
                message.end_lease(self.now)
                self._count("unconfirmed", 1)
        worker.unconfirmed = None
        worker.number += 1

    def _look(self) -> None:
        """A claim of nothing, by somebody who knows all lanes, so that all is put back that ran out."""
        known = [f"{step}{lane}" for step in STEPS for lane in LANES]
        self.store.claim(ClaimId("eve", 1), 0, LEASE_MS, CONFIRM_MS, known)

    # ends

    def _settle(self, worker: Worker, what: str) -> None:
        expected = 0
        names = {"done": "done", "release": "released", "lost": "lost"}
        for identity, token in worker.hand:
            message = self.messages.get(identity)
            if message is None or message.token != token:
                continue
            if what in ("release", "lost"):
                if message.until is None:
                    continue
                message.end_lease(self.now)
                message.losses += what == "lost"
            else:
                del self.messages[identity]
                if what != "done":
                    self.dead[identity] = what
            expected += 1
            self._count(names.get(what, "dead"), 1)
        ends = [End(identity, token, what) for identity, token in worker.hand]
        assert self.store.settle(ends) == expected
        assert self.store.settle(ends) == 0, "it may be sent again"
        worker.hand.clear()

    def _busy(self, number: int) -> Worker:
        """A worker that holds something."""
        busy = [worker for worker in self.workers.values() if worker.hand]
        return busy[number % len(busy)]

    @precondition(lambda self: any(worker.hand for worker in self.workers.values()))
    @rule(number=st.integers(0, 2), what=st.sampled_from(["done", "unreadable", "release", "lost"]))
    def settle(self, number: int, what: str) -> None:
        """What is done is done though its lease has run out; but not if another has it now, or it was stored anew."""
        self._settle(self._busy(number), what)

    @precondition(lambda self: any(worker.hand for worker in self.workers.values()))
    @rule(number=st.integers(0, 2))
    def renew(self, number: int) -> None:
        worker, expected = self._busy(number), 0
        for identity, token in worker.hand:
            message = self.messages.get(identity)
            if message is not None and message.token == token and message.until is not None:
                message.until = self.now + LEASE_MS
                expected += 1
        assert self.store.renew(worker.hand, LEASE_MS) == expected

    @precondition(lambda self: any(worker.hand for worker in self.workers.values()))
    @rule(number=st.integers(0, 2))
    def die(self, number: int) -> None:
        """kill -9: nobody renews or ends its leases any more, and they run out."""
        self._busy(number).hand.clear()
        self.time_passes(LEASE_MS)

    # steering

    def _is_free(self, message: Message) -> bool:
        return message.until is None or message.until <= self.now

    @rule(names=some_ids, leased=st.booleans())
    def cancel(self, names: list[str], leased: bool) -> None:
        there = [n for n in names if n in self.messages and (leased or self._is_free(self.messages[n]))]
        forms = [self.messages.pop(name).stored for name in there]
        assert sorted(self.store.cancel(*names, leased=leased)) == sorted(forms)
        self._count("cancelled", len(there))

    @rule(names=some_ids, delay=st.none() | delays_ms)
    def move(self, names: list[str], delay: int | None) -> None:
        """Run now, or at another time."""
        free = [name for name in names if name in self.messages and self._is_free(self.messages[name])]
        due = self.now + (delay or 0)
        for name in free:
            message = self.messages[name]
            if message.until is not None:
                message.losses += 1
                self._count("ran_out", 1)
                message.end_lease(self.now, keep_token=True)
            message.due = due
        done = self.store.run_now(*names) if delay is None else self.store.reschedule(due, *names)
        assert done == len(free)

    @rule(lane=lanes, duration=st.sampled_from([500, LEASE_MS, 3_600_000]))
    def pause(self, lane: str, duration: int) -> None:
        self.paused[lane] = self.now + duration
        self.store.pause(lane, self.paused[lane])

    @rule(lane=lanes)
    def resume(self, lane: str) -> None:
        self.paused.pop(lane, None)
        self.store.resume(lane)

    @rule(lane=lanes)
    def open_breaker(self, lane: str) -> None:
        self.broken.add(lane)
        self.store.open_breaker(lane, None, RULES)
        assert {breaker.lane for breaker in self.store.breakers()} == self.broken

    @rule(lane=lanes)
    def close_breaker(self, lane: str) -> None:
        assert self.store.close_breaker(lane, RULES) is (lane in self.broken)
        self.broken.discard(lane)

    @rule(lane=lanes)
    def report(self, lane: str) -> None:
        """A report that opens nothing changes nothing."""
        self.store.report([LaneReport(lane, 1, 1, "away")], RULES)
        assert {breaker.lane for breaker in self.store.breakers()} == self.broken

    @precondition(lambda self: len(self.messages) > 3)
    @rule()
    def purge(self) -> None:
        assert self.store.purge() == len(self.messages)
        self._count("purged", len(self.messages))
        self.messages.clear()
        for worker in self.workers.values():
            worker.unconfirmed, worker.number = None, worker.number + 1

    # what always holds

    @invariant()
    def what_is_there_is_what_the_model_has(self) -> None:
        listed = everything(self.store)
        assert sorted(found.id for found in listed) == sorted(self.messages), "each in one place only"
        for found in listed:
            message = self.messages[found.id]
            assert found.leased == (message.until is not None)
            assert (found.stored, found.lane, found.priority) == (message.stored, message.lane, message.step)
            assert found.losses == message.losses
            at = message.due if message.until is None else message.until
            # What came back is due in any case.
            assert found.due_ms == at or max(found.due_ms, at) <= self.now
        counts = self.store.counts()
        leased = sum(message.until is not None for message in self.messages.values())
        assert (counts.waiting, counts.leased, counts.dead) == (len(self.messages) - leased, leased, len(self.dead))
        assert sum(counts.by_lane.values()) == counts.waiting
        assert {letter.id: letter.reason for letter in self.store.dead().letters} == self.dead
        stats = dict(self.store.stats())
        # The model does not know which leases belong to one worker; test_metrics.py does.
        assert stats.pop("lost_workers", 0) <= self.stats.get("ran_out", 0)
        assert stats == self.stats
        assert self.client.llen(self.store.keys.wake) <= 1
        tokens = self.client.hlen(self.store.keys.leases)
        assert tokens == sum(message.token is not None for message in self.messages.values()), "no token stays behind"

    @rule(lane=st.none() | lanes)
    def look_through_the_pages(self, lane: str | None) -> None:
        whole = [found.id for found in self.store.page(lane).entries]
        found, after = [], None
        while True:
            page = self.store.page(lane, after, 2)
            found += [entry.id for entry in page.entries]
            after = page.next
            if after is None:
                break
        assert found == whole


@pytest.fixture
def client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[redis.Redis]:
    """A client whose scripts read the test's clock."""
    sources = {
        name: source.replace("redis.call('TIME')", f"redis.call('HMGET', '{CLOCK}', 's', 'us')")
        for name, source in script_runner._SOURCES.items()
    }
    monkeypatch.setattr(script_runner, "_SOURCES", sources)
    digests = {name: script_runner._digest_of(source) for name, source in sources.items()}
    monkeypatch.setattr(script_runner, "_digests", digests)
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
    client.flushdb()
    return Store(client, QueueKeys("", "q", STEPS))


def clock(client: redis.Redis, ms: int) -> None:
    client.hset(CLOCK, mapping={"s": ms // 1000, "us": ms % 1000 * 1000})


def hold(store: Store) -> tuple[str, str]:
    """Store a message and claim it: its id and token."""
    store.enqueue([Stored("a", START_MS, b"form")], keep=True)
    (lease,) = take(store, 1, LEASE_MS).leases
    return lease


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
            assert store.settle([End(*old, what)]) == 1
        hold(store)
    before = everything(store)

    store.settle([End(*old, what)])

    assert everything(store) == before
    assert take(store, 1).messages == [], "it is in two hands, or early"


def test_message_that_was_moved_is_not_renewed(client: redis.Redis, store: Store):
    clock(client, START_MS)
    old = hold(store)
    clock(client, START_MS + LEASE_MS + 1)
    assert store.run_now("a") == 1

    assert store.renew([old], LEASE_MS) == 0
    assert take(store, 1).ids == ["a"]
