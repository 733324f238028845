"""Reads a dead letter topic with the reasons, and sends each record back to the topic that it came from.

pip install -e ".[demo]"
python examples/04_replay_dead_letters.py
"""

from __future__ import annotations

import contextlib
import threading

from celery import Celery
from kafka import KafkaConsumer, KafkaProducer

from rebound_celery import Rebound, Record
from rebound_celery.consumer import Consumer, ConsumerConfig
from rebound_celery.testing import QUICK_JOIN, running

app = Celery("example")
Rebound(app)
repaired, replayed = threading.Event(), threading.Event()


def handle(record: Record) -> None:
    print(f"attempt {record.attempt} of {record.origin}: {record.value!r}, headers {record.headers}")
    if not repaired.is_set():
        raise ValueError("no such product")
    replayed.set()


# max_retries=0: the first failure makes a dead letter.
config = ConsumerConfig(group="shop", topics="orders", handler=handle, max_retries=0, kafka_options=QUICK_JOIN)

with running(app, topics={"orders": 1, "orders-dlq": 1}) as servers:
    producer = KafkaProducer(bootstrap_servers=servers.kafka)
    producer.send("orders", key=b"customer-7", value=b'{"product": "zebra"}', headers=[("trace", b"abc")])
    with Consumer(config, app):
        options = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
        with contextlib.closing(
            KafkaConsumer("orders-dlq", bootstrap_servers=servers.kafka, **options)
        ) as dead_letters:
            letter = next(dead_letters)
        why = {name: value.decode() for name, value in letter.headers if name.startswith("rebound-")}
        for name in ("reason", "exception-class", "exception-message", "origin-topic", "origin-offset", "attempt"):
            print(f"    {name}: {why['rebound-' + name]}")

        repaired.set()
        # Without rebound's headers it is a new record, which starts with attempt 1.
        kept = [(name, value) for name, value in letter.headers if not name.startswith("rebound-")]
        producer.send(why["rebound-origin-topic"], key=letter.key, value=letter.value, headers=kept)
        producer.close()
        ended_well = replayed.wait(timeout=30)

raise SystemExit(not ended_well)
