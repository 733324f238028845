"""`unique_key` of `schedule_retry` and `schedule_retries` on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from rebound_celery import InvalidSettingError, Message, Rebound, RetryRequest
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.schedule.port import Waiting, open_schedule
from tests.acceptance.apps.worker import close_redis_connections

URL = "https://shop.example/carts/7"


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    yield Rebound(Celery("web", broker=redis_url, set_as_current=False))
    close_redis_connections()


def waiting(rebound: Rebound) -> list[Waiting]:
    with open_schedule(rebound.app, "rebound") as schedule:
        return schedule.page().entries


def message_of(entry: Waiting) -> Message:
    return Delivery.decode(entry.id, entry.stored).message


def test_the_newest_value_waits_under_the_first_ones_task(rebound: Rebound) -> None:
    results = [
        rebound.schedule_retry(URL, {"items": n}, delay=60, unique_key="cart-7", unique="extend", max_wait=600)
        for n in range(3)
    ]

    (entry,) = waiting(rebound)
    assert message_of(entry).value == b'{"items":2}'
    assert {result.id for result in results} == {entry.id}


def test_a_kept_message_stays_and_its_task_is_returned(rebound: Rebound) -> None:
    first = rebound.schedule_retry(URL, b"1", delay=60, unique_key="cart-7", unique="keep")
    second = rebound.schedule_retry(URL, b"2", delay=60, unique_key="cart-7", unique="keep")

    assert second.id == first.id
    assert message_of(*waiting(rebound)).value == b"1"


def test_many_at_once_have_their_outcomes_in_order(rebound: Rebound) -> None:
    found = rebound.schedule_retries(
        [
            {"destination": URL, "value": b"a", "id": "a", "delay": 60, "unique_key": 7},
            {"destination": URL, "value": b"plain", "id": "plain", "delay": 60},
            {"destination": URL, "value": b"b", "id": "b", "delay": 60, "unique_key": 7},
            {"destination": URL, "unique_key": "", "delay": 60},
            RetryRequest(destination=URL, value=b"c", id="c", delay=60, unique_key="other"),
        ]
    )

    assert [getattr(one, "id", type(one)) for one in found] == ["a:1", "plain:1", "a:1", InvalidSettingError, "c:1"]
    assert sorted((entry.id, message_of(entry).value) for entry in waiting(rebound)) == [
        ("a:1", b"b"),
        ("c:1", b"c"),
        ("plain:1", b"plain"),
    ]


def test_the_message_itself_does_not_carry_the_key(rebound: Rebound) -> None:
    """Its stored form is the one that every version reads."""
    rebound.schedule_retry(URL, b"x", id="x", delay=60)
    (plain,) = waiting(rebound)
    rebound.schedule_retry(URL, b"x", id="x", delay=60, unique_key="k")
    (unique,) = waiting(rebound)

    assert len(unique.stored) == len(plain.stored)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("unique_key", {"unique_key": ""}),
        ("unique", {"unique": "extend"}),
        ("unique", {"unique": "keep", "unique_key": None}),
        ("unique_key", {"unique_key": b"bytes"}),
        ("unique_key", {"unique_key": "x" * 1001}),
        ("unique", {"unique_key": "k", "unique": "debounce"}),
        ("unique", {"unique": None}),
        ("max_wait", {"unique_key": "k", "max_wait": 10}),
        ("max_wait", {"max_wait": 10}),
        *[
            ("max_wait", {"unique_key": "k", "unique": "extend", "max_wait": value})
            for value in (0, -1, float("nan"), "10", True, 366 * 86_400)
        ],
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_stored(
    rebound: Rebound, field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSettingError, match=f"^{field}="):
        rebound.schedule_retry(URL, b"x", delay=60, **arguments)

    assert waiting(rebound) == []
