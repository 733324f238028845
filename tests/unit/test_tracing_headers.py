"""`traceparent` and `tracestate` of a record are the user's headers: they survive retries and the dead letter."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from rebound_celery import ConsumerConfig, Message, Rebound, Record, RetryPolicy
from rebound_celery.destinations.http_headers import request_headers
from rebound_celery.message.address import HttpAddress
from rebound_celery.testing import in_memory

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACESTATE = "vendor=t61rcWkgMzE,other=00f067aa0ba902b7"
CONTEXT = {"traceparent": TRACEPARENT, "tracestate": TRACESTATE}
PAIRS = tuple((name, value.encode()) for name, value in CONTEXT.items())


def fail(record: Record) -> None:
    raise ValueError("no price")


def make_rebound() -> Rebound:
    return Rebound(Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False))


def context_of(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items() if name.lower() in CONTEXT}


@pytest.mark.parametrize("ordering", [None, "key"])
def test_each_attempt_and_the_dead_letter_in_kafka_have_the_context_of_the_record(ordering: Any) -> None:
    rebound = make_rebound()
    seen = []

    def bill(record: Record) -> None:
        seen.append(record.headers)
        fail(record)

    with in_memory(rebound.app) as memory:
        policy = RetryPolicy(max_retries=2, base_delay=1)
        memory.consume(ConsumerConfig(topics="orders", group="billing", handler=bill, policy=policy, ordering=ordering))
        memory.produce("orders", b"one", key="k", headers=CONTEXT)
        memory.produce("orders", b"two", key="k", headers=CONTEXT)
        memory.advance(minutes=1)

        assert seen == [PAIRS] * 6
        assert [context_of(headers) for headers in memory.headers("orders-dlq")] == [CONTEXT] * 2


@pytest.mark.parametrize("answer", [200, 500])
def test_each_post_and_the_dead_letter_in_redis_have_the_context_of_the_caller(answer: int) -> None:
    rebound = make_rebound()

    with in_memory(rebound.app) as memory:
        memory.http.answer = lambda _: answer
        rebound.schedule_retry("https://shop.test/hook", {}, headers=CONTEXT, max_retries=2, base_delay=1)
        memory.advance(minutes=1)

        posts = [context_of(dict(post.headers)) for post in memory.http.posts]
        assert posts == [CONTEXT] * (1 if answer == 200 else 2)
        assert [dead.headers for dead in rebound.dead_set] == ([] if answer == 200 else [PAIRS])


def test_a_request_has_the_context_unchanged() -> None:
    message = Message("m", b"", HttpAddress("http://shop.test/"), 1, RetryPolicy(), headers=PAIRS)

    assert context_of(request_headers(message)) == CONTEXT
