"""Wrong uses of the public API. Both checkers must report each line that ends with `# expect-error`, and no other."""

from __future__ import annotations

from celery import Celery

from rebound_celery import (
    Consumer,
    ConsumerConfig,
    Rebound,
    Record,
    RetryPolicy,
    RetryRequest,
    schedule_retries,
    schedule_retry,
)
from rebound_celery.testing import running

app = Celery("shop")
rebound = Rebound(app)

schedule_retry()  # expect-error
schedule_retry(7, b"")  # expect-error
schedule_retry("kafka://orders", b"", "third")  # expect-error
schedule_retry("kafka://orders", b"", max_retry=3)  # expect-error
schedule_retry("kafka://orders", b"", max_retries="3")  # expect-error
schedule_retry("kafka://orders", b"", base_delay="5 s")  # expect-error
schedule_retry("kafka://orders", b"", key=[7])  # expect-error
schedule_retry("kafka://orders", b"", destination_type="amqp")  # expect-error
schedule_retry("kafka://orders", b"", policy=3)  # expect-error
schedule_retry("kafka://orders", b"", error=ValueError)  # expect-error
rebound.schedule_retry("kafka://orders", b"", is_priority="high")  # expect-error
rebound.schedule_retry("kafka://orders", b"", attempt="2")  # expect-error

RetryRequest()  # expect-error
RetryRequest("kafka://orders")  # expect-error
RetryRequest(destination="kafka://orders", valeu=b"")  # expect-error
schedule_retries(["kafka://orders"])  # expect-error
schedule_retries(RetryRequest(destination="kafka://orders"))  # expect-error

RetryPolicy(max_retries="3")  # expect-error
RetryPolicy(retries=3)  # expect-error


def no_record(first: int, second: int) -> None:
    """A handler takes one record."""


def of_text(record: str) -> None:
    """A handler does not take a text."""


def changes(record: Record) -> None:
    record.value = b""  # expect-error
    print(record.no_such_field)  # expect-error


def forgets_that_there_may_be_none(record: Record) -> None:
    print(record.value.decode())  # expect-error
    print(record.key.decode())  # expect-error


ConsumerConfig(topics="orders", handler=changes)  # expect-error
ConsumerConfig(group="billing", topics=7, handler=changes)  # expect-error
ConsumerConfig(group="billing", topics="orders", handler=no_record)  # expect-error
ConsumerConfig(group="billing", topics="orders", handler=of_text)  # expect-error
ConsumerConfig(group="billing", topics="orders", handler=changes, concurency=3)  # expect-error
Consumer("billing")  # expect-error

with running(app, topics=["orders"]):  # expect-error
    pass
