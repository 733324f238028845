"""Reads the records of a topic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kafka import KafkaConsumer, TopicPartition

if TYPE_CHECKING:
    from kafka.consumer.fetcher import ConsumerRecord


def read_topic(brokers: str, topic: str, count: int, timeout: float = 15.0) -> list[ConsumerRecord]:
    """Read a topic from its beginning, in no group.

    It returns once there are `count` records and a further look finds no more (so that a record too many shows), or
    with what there is at the deadline.
    """
    consumer = KafkaConsumer(bootstrap_servers=brokers, group_id=None, enable_auto_commit=False)
    try:
        partitions: Any = consumer.partitions_for_topic(topic) or ()
        consumer.assign([TopicPartition(topic, number) for number in sorted(partitions)])
        consumer.seek_to_beginning()
        records: list[ConsumerRecord] = []
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            batches = consumer.poll(timeout_ms=300).values()
            if not batches and len(records) >= count:
                break
            for batch in batches:
                records.extend(batch)
        return records
    finally:
        consumer.close()
