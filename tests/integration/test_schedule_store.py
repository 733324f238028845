"""The schedule in a real Redis: what each change does, and what it leaves alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import redis

from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.transport import celery_form as stored
from tests.servers import RedisServer, redis_programs, redis_version
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

LEASE_MS = 60_000


@pytest.fixture(scope="module", params=redis_programs(), ids=redis_version)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Every kind of server; see REBOUND_TEST_REDIS_BINARIES."""
    with RedisServer(program=request.param) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as connection:
        connection.flushall(asynchronous=True)  # a million messages take a while
        yield connection


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, QueueKeys("", "q", (0, 3, 6, 9)))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def entry(identity: str, due_ms: int, number: int = 0) -> tuple[str, int, bytes]:
    return identity, due_ms, stored.encode({"headers": {"id": identity}, "properties": {"number": number}})


def ids(claim) -> list[str]:
    return [claimed.id.decode() for claimed in claim.messages]


def settle(store: Store, claim, what: str = "done") -> int:
    return store.settle([(c.id, stored.nonce(c.stored), what) for c in claim.messages])


def test_nothing_is_claimed_before_it_is_due(store: Store):
    store.enqueue([entry("later", now_ms() + 50_000)], 0)

    claim = store.claim(10, LEASE_MS, 3)

    assert ids(claim) == []
    assert 49_000 < claim.next_due_in_ms <= 50_000


def test_empty_schedule_has_nothing_due(store: Store):
    claim = store.claim(10, LEASE_MS, 3)

    assert (claim.messages, claim.next_due_in_ms) == ([], None)


def test_due_messages_are_claimed_once_oldest_first_and_no_more_than_asked_for(store: Store):
    now = now_ms()
    store.enqueue([entry(str(n), now - 100 + n) for n in range(5)], 0)

    first, second, third = (store.claim(2, LEASE_MS, 3) for _ in range(3))

    assert [ids(first), ids(second), ids(third)] == [["0", "1"], ["2", "3"], ["4"]]
    assert first.next_due_in_ms == 0
    assert third.next_due_in_ms > 0


def test_more_urgent_priority_is_claimed_first(store: Store):
    now = now_ms()
    for step in (9, 0, 6, 3):
        store.enqueue([entry(f"p{step}", now - step)], step)

    assert ids(store.claim(10, LEASE_MS, 3)) == ["p0", "p3", "p6", "p9"]


def test_done_message_is_gone(store: Store, client: redis.Redis):
    store.enqueue([entry("a", now_ms())], 3)
    claim = store.claim(10, LEASE_MS, 3)

    assert settle(store, claim) == 1
    assert settle(store, claim) == 0
    assert store.count() == 0
    assert not client.exists(*store.keys.all_waiting())


def test_released_message_is_due_at_once_and_has_lost_nothing(store: Store):
    store.enqueue([entry("a", now_ms())], 0)
    settle(store, store.claim(10, LEASE_MS, 3), "release")

    (again,) = store.claim(10, LEASE_MS, 3).messages

    assert again.losses == 0


def test_lease_that_runs_out_makes_the_message_due_again_and_counts(store: Store):
    store.enqueue([entry("a", now_ms())], 0)

    for losses in range(3):
        claim = wait_until(lambda: (found := store.claim(1, 20, 3)).messages and found)
        assert claim.messages[0].losses == losses
    wait_until(lambda: not store.show("a").leased)
    dead = wait_until(lambda: store.claim(1, 20, 3).dead)

    assert dead == [b"a"]
    assert store.count() == 0
    assert [(identity, reason) for identity, reason, _ in store.dead()] == [("a", "worker-lost")]


def test_lost_message_is_due_at_once_and_what_it_lost_outlives_a_release(store: Store):
    store.enqueue([entry("a", now_ms())], 0)

    found = []
    for what in ("lost", "lost", "release", "done"):
        claim = store.claim(1, LEASE_MS, 3)
        found.append(claim.messages[0].losses)
        settle(store, claim, what)

    assert found == [0, 1, 2, 2]
    assert store.count() == 0


def test_renewed_lease_goes_on(store: Store):
    store.enqueue([entry("a", now_ms())], 0)
    (held,) = store.claim(1, 200, 3).messages

    assert store.renew([(held.id, stored.nonce(held.stored))], LEASE_MS) == 1
    assert store.claim(1, LEASE_MS, 3).next_due_in_ms > 50_000


def test_message_stored_again_while_leased_waits_on_and_survives_the_older_settle(store: Store):
    """A retry under the same id: there is never a moment with two of it, or none."""
    store.enqueue([entry("a", now_ms(), 1)], 0)
    old = store.claim(1, LEASE_MS, 3)

    store.enqueue([entry("a", now_ms() + 50_000, 2)], 3)
    assert store.renew([(c.id, stored.nonce(c.stored)) for c in old.messages], LEASE_MS) == 0
    assert settle(store, old) == 0

    (waiting,) = store.list()
    assert not waiting.leased
    assert waiting.message["properties"]["number"] == 2


def test_keep_stores_once(store: Store):
    assert store.enqueue([entry("a", now_ms() + 1_000_000, 1)], 0, keep=True) == 1
    assert store.enqueue([entry("a", now_ms(), 2)], 3, keep=True) == 0

    (waiting,) = store.list()
    assert waiting.message["properties"]["number"] == 1


def test_waiting_message_can_be_shown_cancelled_run_now_and_moved(store: Store):
    due = now_ms() + 50_000
    store.enqueue([entry(name, due) for name in "abc"], 0)

    assert store.show("a").due_ms == due
    assert store.show("x") is None
    assert store.cancel("a", "x") == 1
    assert store.run_now("b") == 1
    assert store.reschedule(due + 1, "c") == 1
    assert ids(store.claim(10, LEASE_MS, 3)) == ["b"]
    assert store.show("c").due_ms == due + 1
    assert store.count() == 2


def test_leased_message_is_not_moved_but_can_be_cancelled(store: Store):
    store.enqueue([entry("a", now_ms())], 0)
    claim = store.claim(1, LEASE_MS, 3)

    assert store.run_now("a") == 0
    assert store.cancel("a") == 1
    assert settle(store, claim) == 0


@pytest.mark.parametrize("way", ["run now", "reschedule"])
def test_moved_message_keeps_the_count_of_its_losses_and_is_not_leased(store: Store, way: str):
    """A message that kills its workers does not start again from nothing when someone moves it."""
    store.enqueue([entry("a", now_ms())], 0)
    claims = []
    for _ in range(3):
        claims += store.claim(1, 1, 3).messages
        wait_until(lambda: not store.show("a").leased)
        due = now_ms() + 60_000
        assert store.reschedule(due, "a") == 1
        assert (store.show("a").due_ms, store.show("a").leased) == (due, False)
        # The worker was not dead, only slow: the lease that it had is over.
        old = claims[-1]
        assert store.renew([(old.id, stored.nonce(old.stored))], LEASE_MS) == 0
        assert store.settle([(old.id, old.token, "release")]) == 0
        assert not store.claim(1, LEASE_MS, 3).messages, "it is not due"
        assert (store.run_now("a") if way == "run now" else store.reschedule(now_ms(), "a")) == 1

    assert [claimed.losses for claimed in claims] == [0, 1, 2]
    assert store.claim(1, LEASE_MS, 3).dead == [b"a"]


def test_moved_message_can_be_withdrawn(store: Store):
    store.enqueue([entry("a", now_ms())], 0)
    store.claim(1, 1, 3)
    wait_until(lambda: not store.show("a").leased)
    store.reschedule(now_ms() + 60_000, "a")

    assert len(list(store.withdraw("a"))) == 1
    assert store.count() == 0


def test_withdraw_takes_what_no_worker_holds(store: Store):
    past = now_ms() - 1_000
    store.enqueue([entry("lapsed", past), entry("held", past + 1)], 0)
    store.claim(1, 1, 9)
    store.claim(1, LEASE_MS, 9)
    store.enqueue([entry("waiting", past + 90_000)], 3)
    wait_until(lambda: store.show("lapsed").due_ms < now_ms() - 2)

    removed = [stored.decode(body)["headers"]["id"] for body in store.withdraw("lapsed", "held", "waiting", "unknown")]

    assert removed == ["lapsed", "waiting"]
    assert [found.id for found in store.list()] == ["held"]


def test_list_gives_pages_over_all_priorities(store: Store):
    now = now_ms()
    for step in (0, 3, 6):
        store.enqueue([entry(f"{step}-{n}", now + n) for n in range(10)], step)

    pages = [store.list(start, 7) for start in range(0, 35, 7)]

    assert [len(page) for page in pages] == [7, 7, 7, 7, 2]
    assert len({waiting.id for page in pages for waiting in page}) == 30


def test_purge_removes_what_waits_and_keeps_what_died(store: Store):
    store.enqueue([entry("a", now_ms()), entry("b", now_ms() + 50_000)], 0)
    settle(store, store.claim(1, LEASE_MS, 3), "unreadable")

    assert store.purge() == 1
    assert store.count() == 0
    assert len(list(store.dead())) == 1


def test_forgotten_scripts_are_loaded_again(store: Store, client: redis.Redis):
    store.enqueue([entry("a", now_ms())], 0)
    client.script_flush()

    assert ids(store.claim(1, LEASE_MS, 3)) == ["a"]


def test_a_wake_up_call_is_left_for_what_is_due_sooner_than_a_sleeper_looks(store: Store, client: redis.Redis):
    store.enqueue([entry("later", now_ms() + 50_000)], 0)
    assert client.llen(store.keys.wake) == 0

    store.enqueue([entry("a", now_ms()), entry("b", now_ms())], 0)
    assert client.llen(store.keys.wake) == 1


@pytest.mark.parametrize("server", redis_programs()[:1], indirect=True, ids=redis_version)
def test_a_million_due_in_the_same_millisecond_are_claimed_in_bounded_batches(store: Store, client: redis.Redis):
    due = now_ms() - 1
    body = stored.encode({"headers": {}, "properties": {}})
    with client.pipeline(transaction=False) as pipe:
        for start in range(0, 1_000_000, 50_000):
            some = [f"{n:07}" for n in range(start, start + 50_000)]
            pipe.hset(store.keys.messages, mapping=dict.fromkeys(some, body))
            pipe.zadd(store.keys.waiting(0), dict.fromkeys(some, due))
            pipe.execute()

    began = time.monotonic()
    claims = [store.claim(250, LEASE_MS, 3) for _ in range(8)]

    assert [len(claim.messages) for claim in claims] == [250] * 8
    assert len({c.id for claim in claims for c in claim.messages}) == 2_000
    assert time.monotonic() - began < 5


def test_full_redis_can_still_be_drained(store: Store, client: redis.Redis):
    """Claiming and settling are allowed when memory is spent, storing is refused. Redis before 7 refuses all of it,
    until there is memory again."""
    has_flags = int(client.info("server")["redis_version"].split(".")[0]) >= 7
    store.enqueue([entry(str(n), now_ms()) for n in range(10)], 0)
    store.claim(1, LEASE_MS, 3)
    before = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", "500kb")
    try:
        # Before Redis 7 it is a script's error like any other.
        with pytest.raises(redis.exceptions.ResponseError, match="maxmemory"):
            store.enqueue([entry("new", now_ms())], 0)
        if not has_flags:
            with pytest.raises(redis.exceptions.ResponseError, match="maxmemory"):
                store.claim(10, LEASE_MS, 3)
            client.config_set("maxmemory", before)
        claim = store.claim(10, LEASE_MS, 3)
        assert len(claim.messages) == 9
        assert settle(store, claim) == 9
    finally:
        client.config_set("maxmemory", before)
