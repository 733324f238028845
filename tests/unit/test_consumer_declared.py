"""`@rebound.consumer(...)`: what an app's modules declare, and what is refused."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
from celery import Celery

from rebound_celery import InvalidSettingError, Rebound, RetryPolicy, registry


def make() -> Rebound:
    return Rebound(Celery("shop", broker="memory://", set_as_current=False))


def test_a_declared_handler_stays_a_function_and_its_consumer_is_kept() -> None:
    rebound, policy = make(), RetryPolicy(max_retries=5)

    @rebound.consumer("orders", "returns", group="stock", policy=policy, concurrency=3)
    def count(record: Any) -> int:
        return int(record)

    @rebound.consumer(re.compile("orders-.*"), group="billing")
    async def bill(record: Any) -> None: ...

    assert count(3) == 3
    first, second = rebound.consumers
    assert (first.group, first.topics, first.handler) == ("stock", ("orders", "returns"), count)
    assert (first.policy, first.concurrency) == (policy, 3)
    assert (second.group, second.handler) == ("billing", bill)


def test_one_function_may_handle_for_two_groups_and_a_module_may_be_imported_again() -> None:
    rebound = make()

    def declare(concurrency: int) -> None:
        @rebound.consumer("orders", group="a", concurrency=concurrency)
        @rebound.consumer("orders", group="b")
        def handle(record: Any) -> None: ...

    declare(1)
    declare(2)

    assert sorted((config.group, config.concurrency) for config in rebound.consumers) == [("a", 2), ("b", 8)]


def test_handlers_that_are_made_in_a_loop_are_consumers_of_their_own() -> None:
    rebound = make()

    for topic in ("orders", "returns"):

        @rebound.consumer(topic, group="stock")
        def handle(record: Any) -> None: ...

    assert [config.topics for config in rebound.consumers] == [("orders",), ("returns",)]


def test_a_handler_in_the_place_of_another_one_with_its_name_is_told(caplog: pytest.LogCaptureFixture) -> None:
    rebound = make()

    @rebound.consumer("orders", group="stock")
    def handle(record: Any) -> None: ...

    def other(record: Any) -> None: ...

    other.__qualname__ = handle.__qualname__
    rebound.consumer("orders", group="stock")(other)

    assert "the group 'stock' has two handlers with the name" in caplog.text
    assert caplog.text.count("test_consumer_declared.py:") >= 2
    assert [config.handler for config in rebound.consumers] == [other]


@pytest.mark.parametrize(
    ("topics", "fields", "said"),
    [
        (("orders",), {"group": "stock"}, "topics='orders'.*'stock' has another handler"),
        ((), {"group": "g"}, "topics=()"),
        (("a b",), {"group": "g"}, "topics='a b'"),
        ((re.compile("a"), "b"), {"group": "g"}, "one compiled pattern"),
        (("orders",), {"group": ""}, "group=''"),
        (("orders",), {"group": "g", "concurency": 3}, "concurency=3.*did you mean 'concurrency'"),
        (("orders",), {"group": "g", "concurrency": 0}, "concurrency=0"),
        (("orders",), {"group": "g", "topics": "x"}, "topics"),
        (("orders",), {"group": "g", "handler": print}, "handler"),
    ],
)
def test_what_is_wrong_is_refused_where_it_is_declared(topics: Any, fields: Any, said: str) -> None:
    rebound = make()

    @rebound.consumer("orders", group="stock")
    def count(record: Any) -> None: ...

    with pytest.raises(InvalidSettingError) as refused:

        @rebound.consumer(*topics, **fields)
        def other(record: Any) -> None: ...

    assert re.search(said.replace("()", r"\(\)"), str(refused.value))
    assert len(rebound.consumers) == 1


def test_a_copy_of_the_app_has_the_consumers_and_a_pickle_has_none() -> None:
    """Handlers cannot all be pickled, and the children of a pool, which get the pickle, consume nothing."""
    rebound = make()
    rebound.consumer("orders", group="billing", deserializer=lambda value: value)(print)

    for copied, count in ((copy.copy(rebound.app), 1), (pickle.loads(pickle.dumps(rebound.app)), 0)):
        other = registry.find(copied)
        assert isinstance(other, Rebound)
        assert (len(rebound.consumers), len(other.consumers)) == (1, count)
