"""Tests of your own use of rebound: in memory, without servers, and ten minutes pass at once.

pip install -e ".[test]"
pytest examples/test_orders.py
"""

from __future__ import annotations

import pytest
from celery import Celery

from rebound_celery import Rebound, RetryPolicy, schedule_retry

# What would be in your own modules: an app, and a consumer.
app = Celery("shop", broker="redis://localhost:6379/0")
rebound = Rebound(app)
bank = {"is open": False}
paid = []


@rebound.consumer("orders", group="billing", policy=RetryPolicy(max_retries=3, base_delay=60))
def bill(record):
    if not bank["is open"]:
        raise ConnectionError("the bank is closed")
    paid.append(record.value)


@pytest.fixture
def shop(rebound_in_memory):
    bank["is open"] = False
    paid.clear()
    return rebound_in_memory(app)


def test_an_order_is_paid_once_the_bank_is_open(shop):
    shop.produce("orders", {"id": 42})
    shop.advance(minutes=1)  # attempts 1 and 2 fail
    bank["is open"] = True
    shop.advance(minutes=10)

    assert paid == [b'{"id":42}']
    assert [record.attempt for record in shop.records("orders")] == [1, 2, 3]


def test_an_order_that_is_never_paid_becomes_a_dead_letter(shop):
    shop.produce("orders", {"id": 42})
    shop.advance(hours=1)

    (headers,) = shop.headers("orders-dlq")
    assert (headers["rebound-reason"], headers["rebound-attempt"]) == ("retries-exhausted", "4")


def test_a_webhook_waits_while_its_receiver_fails(shop):
    shop.http.answer = lambda _post: 200 if len(shop.http.posts) > 2 else 503
    schedule_retry("https://example.com/hook", {"order": 42}, delay=0)
    shop.advance(hours=1)

    assert [post.body for post in shop.http.posts] == 3 * [b'{"order":42}']
    assert shop.waiting() == []
