"""A consumer with an async handler, on Kafka and Redis: retries, order and the stop are as with a plain one."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from celery import Celery, current_app
from kafka import KafkaProducer

from rebound_celery import Consumer, ConsumerConfig, Rebound, Record
from rebound_celery.testing import QUICK_JOIN, running
from tests.waiting import wait_until


def test_an_async_handler_gets_failed_records_again_and_keeps_the_order_of_a_key() -> None:
    app = Celery("shop", set_as_current=False)
    Rebound(app, base_delay=1)
    seen: list[tuple[bytes | None, int]] = []
    apps, loops, at_once = set(), set(), [0, 0]

    async def handle(record: Record) -> None:
        apps.add(current_app.main)
        loops.add(asyncio.get_running_loop())
        at_once[0] += 1
        at_once[1] = max(at_once)
        await asyncio.sleep(0.2)
        at_once[0] -= 1
        seen.append((record.value, record.attempt))
        if record.value == b"0" and record.attempt == 1:
            raise ValueError("no price")

    config: Any = {"group": "g", "topics": "orders", "handler": handle, "concurrency": 4, "kafka_options": QUICK_JOIN}
    with running(app, topics={"orders": 1}) as servers:
        producer = KafkaProducer(bootstrap_servers=servers.kafka)
        for number in range(12):
            producer.send("orders", value=b"%d" % number, key=b"%d" % (number % 4))
        producer.close()
        with Consumer(ConsumerConfig(**config), app) as consumer:
            wait_until(lambda: len(seen) == 13, timeout=60)
            wait_until(lambda: consumer.stats().succeeded == 12)
            started = time.monotonic()
        stopped_after_s = time.monotonic() - started

    firsts = [int(value or b"") for value, attempt in seen if attempt == 1]
    assert [[number for number in firsts if number % 4 == key] for key in range(4)] == [
        [key, key + 4, key + 8] for key in range(4)
    ]
    assert (b"0", 2) in seen
    assert (apps, len(loops), at_once[1]) == ({"shop"}, 1, 4)
    assert stopped_after_s < 10
