"""Stores messages in Redis, makes them due at one moment, and waits until they are done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from celery import Celery
from kafka import KafkaConsumer, TopicPartition

from rebound_celery import RetryRequest
from rebound_celery.message import Message
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from tests.waiting import wait_until

from . import rebound_app

#: The ordinary queue of every app, and a second list that no worker reads.
QUEUE = "celery"
ASIDE = "aside"

#: kombu's.
PRIORITY_STEPS = (0, 3, 6, 9)

#: The countdown of waiting messages, in seconds. It is so long that they do not become due by themselves.
FAR_S = 3600

PARTITIONS = 4
PAYLOAD_BYTES = 200
_CHUNK = 1000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def store_of(client: Any, queue: str) -> Store:
    return Store(client, QueueKeys("", queue, PRIORITY_STEPS))


def publish(app: Celery, name: str, arguments: Iterable[tuple[Any, ...]], **options: Any) -> list[str]:
    """Send a task many times in Celery's fastest way. Return the ids."""
    task = app.tasks[name]
    with app.producer_pool.acquire(block=True) as producer, producer.batch():
        return [task.apply_async(args, producer=producer, **options).id for args in arguments]


def random_hex() -> bytes:
    """Return a payload that does not compress well."""
    return os.urandom(PAYLOAD_BYTES // 2).hex().encode()


def retry(app: Celery, topic: str, value: bytes, due_ms: int) -> tuple[Message, int]:
    """Return a retry in the form in which the consumer stores it."""
    request = RetryRequest(destination=f"kafka://{topic}", value=value, max_retries=3, base_delay=1)
    message, _ = request.to_message(app.rebound.settings, now_ms())
    return message, due_ms


def store_retries(app: Celery, retries: Sequence[tuple[Message, int]]) -> list[str]:
    """Store retries. Return the ids of their tasks."""
    for start in range(0, len(retries), _CHUNK):
        app.rebound.store(retries[start : start + _CHUNK])
    return [message.task_id for message, _ in retries]


def store_far_retries(app: Celery, topic: str, count: int) -> list[str]:
    due_ms = now_ms() + FAR_S * 1000
    return store_retries(app, [retry(app, topic, random_hex(), due_ms) for _ in range(count)])


def fall_due(client: Any, queue: str, ids: Sequence[str]) -> float:
    """Make all waiting messages due at one moment. Return this moment in Unix seconds."""
    due_ms = now_ms() + 300 + len(ids) // 50
    store_of(client, queue).reschedule(due_ms, *ids)
    return due_ms / 1000


def bring_in(client: Any) -> float:
    """Move all messages from the second list to stock's queue at once. Return this moment in Unix seconds."""
    client.rename(ASIDE, QUEUE)
    return time.time()


def left(client: Any) -> int:
    """Return how many messages wait, are leased, or are unacknowledged."""
    with client.pipeline(transaction=False) as pipe:
        for queue in (QUEUE, rebound_app.QUEUE):
            pipe.llen(queue)
            pipe.hlen(store_of(client, queue).keys.messages)
        pipe.hlen("unacked")
        return sum(pipe.execute())


def wait_until_empty(client: Any, timeout: float) -> float:
    """Wait until no message is left. Return the time in Unix seconds."""
    wait_until(
        lambda: left(client) == 0,
        timeout=timeout,
        interval=0.01,
        message=lambda: f"{left(client)} messages are left",
    )
    return time.time()


def open_redis(url: str) -> redis.Redis:
    return redis.Redis.from_url(url)


def read_topic(brokers: str, topic: str, count: int, timeout: float = 60) -> list[Any]:
    """Return the topic's records: at least `count`, and all further records of the next half second."""
    consumer = KafkaConsumer(bootstrap_servers=brokers.split(","), metrics_enabled=False, group_id=None)
    consumer.assign([TopicPartition(topic, partition) for partition in range(PARTITIONS)])
    consumer.seek_to_beginning()
    records: list[Any] = []
    deadline = time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            batches = consumer.poll(timeout_ms=500)
            records += [record for batch in batches.values() for record in batch]
            if not batches and len(records) >= count:
                break
    finally:
        consumer.close()
    return records


def times_delivered(records: Iterable[Any]) -> dict[str, int]:
    """Count the records, and the records beyond the first of each message.

    Rebound's records have the id in a header. Stock's records have it in the key.
    """
    identities = [dict(record.headers).get("rebound-id", record.key) for record in records]
    return {"records": len(identities), "twice": len(identities) - len(set(identities))}
