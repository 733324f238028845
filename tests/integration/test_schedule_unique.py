"""Messages with a unique key in a real Redis: one of them waits, whatever is stored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from rebound_celery.schedule.store.claims import DONE, RELEASE
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.store.values import Hold, Unique, UniqueEnd, Waiting
from tests.scheduling import entry, everything, now_ms, number_of, settle, take

SOON = 60_000


@pytest.fixture
def store(redis_url: str) -> Store:
    return Store(redis.Redis.from_url(redis_url), QueueKeys("", "q", (0, 3)))


def put(
    store: Store,
    identity: str,
    due_ms: int,
    how: str = "replace",
    *,
    number: int = 0,
    key: str = "cart-7",
    max_wait_ms: int | None = None,
    lane: str = "",
    priority: int = 0,
) -> UniqueEnd:
    (end,) = store.enqueue_unique(
        [(entry(identity, due_ms, number, lane=lane, priority=priority), Unique(key, how, max_wait_ms))]
    )
    return end


def only(store: Store) -> Waiting:
    (one,) = everything(store)
    return one


def test_the_first_message_is_stored_and_is_due_as_any_other(store: Store) -> None:
    assert put(store, "a", now_ms() - 1) == UniqueEnd("a", "stored")

    assert take(store).ids == ["a"]
    assert store.stats()["stored"] == 1


def test_keep_leaves_the_message_that_waits_as_it_is(store: Store) -> None:
    due = now_ms() + SOON
    put(store, "a", due, number=1)

    assert put(store, "b", due + 1, "keep", number=2) == UniqueEnd("a", "kept")

    assert (only(store).id, only(store).due_ms, number_of(only(store).stored)) == ("a", due, 1)


def test_replace_gives_it_the_new_message_and_leaves_its_due_time(store: Store) -> None:
    due = now_ms() + SOON
    put(store, "a", due, number=1)

    assert put(store, "b", due + SOON, "replace", number=2) == UniqueEnd("a", "replaced")

    assert (only(store).id, only(store).due_ms, number_of(only(store).stored)) == ("a", due, 2)
    assert store.stats() == {"stored": 1, "replaced": 1}


def test_extend_gives_it_the_new_due_time_too_up_to_the_longest_wait(store: Store) -> None:
    began = now_ms()
    put(store, "a", began + 1_000, "extend", number=1, max_wait_ms=5_000)

    assert put(store, "b", began + 2_000, "extend", number=2, max_wait_ms=5_000) == UniqueEnd("a", "replaced")
    assert (only(store).due_ms, number_of(only(store).stored)) == (began + 2_000, 2)

    put(store, "c", began + SOON, "extend", number=3, max_wait_ms=5_000)
    assert began + 5_000 <= only(store).due_ms <= now_ms() + 5_000
    assert number_of(only(store).stored) == 3

    put(store, "d", began + SOON, "extend")
    assert only(store).due_ms == began + SOON, "without a longest wait"


def test_extend_holds_the_first_message_to_the_longest_wait_too(store: Store) -> None:
    began = now_ms()

    put(store, "a", began + SOON, "extend", max_wait_ms=5_000)
    assert began + 5_000 <= only(store).due_ms <= now_ms() + 5_000


def test_messages_with_other_keys_do_not_meet(store: Store) -> None:
    put(store, "a", now_ms() + SOON, key="x")
    put(store, "b", now_ms() + SOON, key="y")

    assert sorted(found.id for found in everything(store)) == ["a", "b"]


def test_a_replaced_message_moves_to_its_new_lane_and_rank(store: Store) -> None:
    put(store, "a", now_ms() - 1_000, lane="x", priority=3)

    assert put(store, "b", now_ms(), lane="y", priority=0).id == "a"

    assert (only(store).lane, only(store).priority) == ("y", 0)
    (claimed,) = take(store).messages
    assert (claimed.id, claimed.lane, claimed.priority) == ("a", "y", 0)
    assert take(store).ids == []


@pytest.mark.parametrize("how", ["keep", "replace", "extend"])
def test_beside_a_message_that_a_worker_holds_another_one_is_stored(store: Store, how: str) -> None:
    put(store, "a", now_ms() - 1, number=1)
    taken = take(store)

    assert put(store, "b", now_ms() + SOON, how, number=2) == UniqueEnd("b", "stored")

    assert settle(store, taken, DONE) == 1
    assert (only(store).id, number_of(only(store).stored)) == ("b", 2)
    assert put(store, "c", now_ms() + SOON, how).id == "b"


def test_a_message_that_was_given_back_waits_again(store: Store) -> None:
    put(store, "a", now_ms() - 1)
    settle(store, take(store), RELEASE)

    assert put(store, "b", now_ms()).id == "a"


@pytest.mark.parametrize("how", ["keep", "replace", "extend"])
def test_after_the_delivery_or_a_cancellation_the_next_message_is_the_first_again(store: Store, how: str) -> None:
    put(store, "a", now_ms() - 1)
    settle(store, take(store))
    assert put(store, "b", now_ms() + SOON, how) == UniqueEnd("b", "stored")

    store.cancel("b")
    assert put(store, "c", now_ms() + SOON, how) == UniqueEnd("c", "stored")


def test_a_call_that_is_sent_twice_changes_nothing(store: Store) -> None:
    for how in ("keep", "replace", "extend"):
        due = now_ms() + SOON
        put(store, f"a-{how}", due, how, key=how)
        before = everything(store)
        put(store, f"a-{how}", due, how, key=how)
        assert everything(store) == before


def test_an_id_that_waits_elsewhere_is_moved(store: Store) -> None:
    store.enqueue([entry("a", now_ms() + SOON, lane="x")])

    assert put(store, "a", now_ms() + SOON, lane="y") == UniqueEnd("a", "stored")

    assert only(store).lane == "y"


def test_many_at_once_leave_one_of_each_key(store: Store, redis_url: str) -> None:
    def store_some(worker: int) -> None:
        with redis.Redis.from_url(redis_url) as client:
            own = store.over(client)
            for n in range(50):
                put(own, f"{worker}-{n}", now_ms() + SOON, "extend", key=f"k{n % 5}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(store_some, range(4)))

    assert len(everything(store)) == 5


def test_keys_of_messages_that_are_gone_are_forgotten(store: Store) -> None:
    """Otherwise a key that is used once would be kept for ever."""
    for n in range(200):
        put(store, f"a{n}", now_ms() - 1, key=f"k{n}")
        settle(store, take(store))
    put(store, "z", now_ms() + SOON, key="stays")
    assert store._client.hlen(store.keys.unique) <= 3
    assert store._client.zcard(store.keys.unique_times) <= 3

    put(store, "y", now_ms() - 1, key="other")
    assert put(store, "x", now_ms(), key="stays").id == "z"


@pytest.mark.parametrize("how", ["replace", "keep", "extend"])
def test_what_is_held_does_not_wait_and_a_new_message_is_stored_beside_it(store: Store, how: str) -> None:
    put(store, "a", now_ms(), number=1)
    take(store)
    store.enqueue([entry("a", now_ms() + SOON, 1)], hold=Hold("mine", now_ms()))

    assert put(store, "b", now_ms() + SOON, how, number=2) == UniqueEnd("b", "stored")

    assert store.enqueue([entry("a", now_ms(), 3)], hold=Hold("mine", now_ms(), ends=True)) == 0
    assert {one.id: number_of(one.stored) for one in store.page().entries} == {"a": 3, "b": 2}


@pytest.mark.parametrize("how", ["replace", "keep", "extend"])
def test_what_was_delivered_and_is_to_be_settled_does_not_wait(store: Store, how: str) -> None:
    put(store, "a", now_ms() - 1, number=1, lane="ended")

    unique = Unique("cart-7", how, ended_lane="ended")
    (end,) = store.enqueue_unique([(entry("b", now_ms() + SOON, 2), unique)])

    assert end == UniqueEnd("b", "stored")
    assert sorted(number_of(one.stored) for one in everything(store)) == [1, 2]
