"""A consumer whose handler fails twice. The record comes back after 1 s, and then after 2 s.

pip install -e ".[demo]"
python examples/01_consumer_with_policy.py
"""

from __future__ import annotations

import time

from celery import Celery
from kafka import KafkaProducer

from rebound_celery import Rebound, Record, RetryPolicy
from rebound_celery.consumer import Consumer, ConsumerConfig
from rebound_celery.testing import QUICK_JOIN, running

app = Celery("example")
Rebound(app)

started = time.monotonic()


def handle(record: Record) -> None:
    print(f"{time.monotonic() - started:4.1f} s  attempt {record.attempt} of {record.origin}: {record.value!r}")
    if record.attempt < 3:
        raise ConnectionError("the payment service does not answer")
    consumer.stop()


consumer = Consumer(
    ConsumerConfig(
        group="billing",
        topics="orders",
        handler=handle,
        policy=RetryPolicy(max_retries=3, base_delay=1),
        kafka_options=QUICK_JOIN,
    ),
    app,
)

# In production you use your own Kafka and Redis, and `celery -A your_app worker`.
with running(app, topics={"orders": 4}) as servers:
    producer = KafkaProducer(bootstrap_servers=servers.kafka)
    producer.send("orders", key=b"customer-7", value=b'{"order": 42}')
    producer.close()
    consumer.run(handle_signals=True)

print(consumer.stats().to_json())
