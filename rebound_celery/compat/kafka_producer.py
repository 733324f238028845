"""Corrects a fault of kafka-python's producer. `patches.py` lists each piece of private code that is changed here."""

from __future__ import annotations

import threading
from typing import Any

from kafka import KafkaProducer


def ask_for_metadata_once(producer: KafkaProducer) -> None:
    """Make the producer's thread wait while a request for metadata is under way. Call it once for a producer.

    While records wait for a topic without a leader, for example one that was deleted, each turn of the thread asks for
    new metadata. `ClusterMetadata.request_update` then wakes the thread itself, so the thread never waits: it uses half
    of a core, although it sends no more than ten requests a second.
    """
    cluster: Any = getattr(producer, "_metadata", None)
    request_update = getattr(cluster, "request_update", None)
    if request_update is None:
        return

    def request_once() -> Any:
        future = getattr(cluster, "_future", None)
        if cluster.need_update and future is not None and not future.is_done:
            return future
        return request_update()

    cluster.request_update = request_once


def read_metadata(producer: KafkaProducer, timeout_s: float) -> bool:
    """Ask Kafka for new metadata, and return whether it came in time. kafka-python itself asks every five minutes."""
    cluster: Any = getattr(producer, "_metadata", None)
    if cluster is None:
        return True
    answered = threading.Event()
    future = cluster.request_update()
    future.add_both(lambda *_: answered.set())
    return answered.wait(timeout_s) and not future.failed()
