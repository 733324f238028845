"""The blocked keys of a consumer: never free while Redis has messages for them, and bounded."""

from __future__ import annotations

import pytest

from rebound_celery.consumer.blocked_keys import BlockedKeys, key_of
from rebound_celery.consumer.partition_tracker import Partition
from rebound_celery.message import Origin, Record

ORDERS = Partition("orders", 3)
OTHER = Partition("orders", 4)


class Names:
    """The names of chains, as Redis has them."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __call__(self, prefix: str, after: str) -> list[str]:
        return sorted(name for name in self.names if name.startswith(prefix) and name > after)[:2]


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def blocked(names: Names) -> BlockedKeys:
    return BlockedKeys("shop/eu", names, limit=3)


def is_blocked(blocked: BlockedKeys, key: bytes, partition: Partition = ORDERS) -> bool:
    if blocked.is_empty() or not blocked.enter_if_blocked((partition, key)):
        return False
    blocked.leave((partition, key), is_open=True)
    return True


def test_key_is_blocked_from_its_failure_until_redis_says_that_nothing_waits(blocked: BlockedKeys) -> None:
    blocked.enter((ORDERS, b"a"))
    assert blocked.enter_if_blocked((ORDERS, b"a"))
    assert not is_blocked(blocked, b"b")
    assert not is_blocked(blocked, b"a", OTHER)

    blocked.leave((ORDERS, b"a"), is_open=True)
    blocked.leave((ORDERS, b"a"), is_open=True)
    assert is_blocked(blocked, b"a")

    blocked.enter((ORDERS, b"a"))
    blocked.leave((ORDERS, b"a"), is_open=False)
    assert blocked.is_empty()


def test_key_stays_blocked_while_a_record_is_on_its_way_to_redis(blocked: BlockedKeys) -> None:
    """The chain is empty now, but the record will be in it before its successor may be handled."""
    blocked.enter((ORDERS, b"a"))
    assert blocked.enter_if_blocked((ORDERS, b"a"))

    blocked.leave((ORDERS, b"a"), is_open=False)

    assert is_blocked(blocked, b"a")


def test_keys_of_an_assigned_partition_are_read_in_pages(blocked: BlockedKeys, names: Names) -> None:
    names.names = {f"shop%2Feu/orders/3/{key}" for key in ("a", "b%2Fc", "d")} | {"shop%2Feu/orders/4/e", "x"}

    blocked.load([ORDERS])

    assert [is_blocked(blocked, key) for key in (b"a", b"b/c", b"d", b"e")] == [True, True, True, False]


def test_reading_again_frees_what_others_have_freed(blocked: BlockedKeys, names: Names) -> None:
    names.names = {"shop%2Feu/orders/3/a"}
    blocked.load([ORDERS])
    blocked.enter((ORDERS, b"b"))
    names.names = set()

    blocked.load_again([ORDERS])

    assert not is_blocked(blocked, b"a")
    assert is_blocked(blocked, b"b"), "it is on its way to Redis"


def test_key_that_is_noted_during_the_reading_stays(blocked: BlockedKeys, names: Names) -> None:
    def read(prefix: str, after: str) -> list[str]:
        blocked.enter((ORDERS, b"late"))
        blocked.leave((ORDERS, b"late"), is_open=True)
        return []

    blocked._names = read
    blocked.load([ORDERS])

    assert is_blocked(blocked, b"late")


def test_above_the_limit_every_key_asks_redis_until_there_are_fewer(blocked: BlockedKeys, names: Names) -> None:
    names.names = {f"shop%2Feu/orders/3/{number}" for number in range(9)}
    blocked.load([ORDERS])

    assert len(blocked) == 3
    assert is_blocked(blocked, b"8")
    assert is_blocked(blocked, b"free")

    names.names = {"shop%2Feu/orders/3/8"}
    blocked.load_again([ORDERS])
    assert is_blocked(blocked, b"8")
    assert not is_blocked(blocked, b"free")


def test_key_that_found_no_room_is_not_forgotten_with_the_limit(blocked: BlockedKeys, names: Names) -> None:
    for number in range(4):
        blocked.enter((ORDERS, b"%d" % number))
    for number in range(3):
        blocked.leave((ORDERS, b"%d" % number), is_open=False)
    names.names = set()  # the fourth is still on its way to Redis

    blocked.load_again([ORDERS])
    blocked.leave((ORDERS, b"3"), is_open=True)

    assert is_blocked(blocked, b"3")


def test_keys_of_partitions_that_others_have_are_forgotten(blocked: BlockedKeys, names: Names) -> None:
    names.names = {"shop%2Feu/orders/3/a"}
    blocked.load([ORDERS])

    blocked.load_again([OTHER])
    assert is_blocked(blocked, b"a"), "the partition may be just about to be assigned"
    blocked.load_again([OTHER])

    assert blocked.is_empty()


@pytest.mark.parametrize("key", [b"", b"user-17", b"a/b\x00\xff%", b"k" * 128, b"k" * 129, b"#" + b"k" * 200])
def test_name_of_a_key_is_bounded_text_that_names_only_this_key(blocked: BlockedKeys, names: Names, key: bytes) -> None:
    record = Record("retries", 0, 9, 0, key, b"v", (), "id", Origin("orders", 3, 812, 0))
    name = blocked.chain_name(key_of(record))

    assert name.startswith("shop%2Feu/orders/3/")
    assert name.isascii()
    assert name.count("/") == 3
    assert len(name) < 450
    names.names = {name}
    blocked.load([ORDERS])
    assert blocked.enter_if_blocked(key_of(record))
    assert not is_blocked(blocked, b"another")
