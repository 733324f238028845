"""A shop whose module declares its consumers: `celery -A tests.acceptance.apps.declared rebound consume --all`.

ORDERS_REDIS names the broker, and TOPIC the topic; the second consumer reads TOPIC-returns.
"""

from __future__ import annotations

import asyncio
import os

from celery import Celery

from rebound_celery import Rebound, Record, RetryPolicy

app = Celery("declared", broker=os.environ.get("ORDERS_REDIS"))
rebound = Rebound(app)
topic = os.environ.get("TOPIC", "orders")
options = {"session_timeout_ms": 6000}


@rebound.consumer(topic, group=f"{topic}-bill", policy=RetryPolicy(base_delay=1), kafka_options=options)
async def bill(record: Record) -> None:
    await asyncio.sleep(0)
    print(f"billed {(record.value or b'').decode()} attempt {record.attempt}", flush=True)
    if record.attempt == 1:
        raise ValueError("the bank does not answer")


@rebound.consumer(f"{topic}-returns", group=f"{topic}-stock", kafka_options=options)
def count(record: Record) -> None:
    print(f"counted {(record.value or b'').decode()}", flush=True)
    if record.value == b"the end":
        raise SystemExit(7)
