from __future__ import annotations

from typing import Any

from kafka.errors import KafkaTimeoutError

from rebound_celery.destinations.kafka import KafkaDestination


class _Producer:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed_within: float | None = None

    def close(self, timeout: float) -> None:
        self.closed_within = timeout
        if self.error is not None:
            raise self.error


def test_a_producer_that_cannot_finish_keeps_no_other_open() -> None:
    """As when Kafka hangs while the worker stops: what is not confirmed is delivered again."""
    producers: list[Any] = [_Producer(KafkaTimeoutError("Timeout waiting for future")), _Producer()]
    destination = KafkaDestination(["localhost:9092"], {}, 20)
    destination._producers = {("a:1", False): producers[0], ("b:1", False): producers[1]}

    destination.close()

    assert [producer.closed_within for producer in producers] == [5, 5]
