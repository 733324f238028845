"""A consumer in memory: rebound's own attempts and failure handling, called in the test's thread."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import ExitStack
from typing import Any

from ..app import Rebound
from ..clock import Clock
from ..consumer import ConsumerConfig, ConsumerStats
from ..consumer.async_handler import callable_by_threads
from ..consumer.failure_handler import FailureHandler
from ..consumer.offset_tracker import OffsetTracker
from ..consumer.partition_tracker import Partition
from ..consumer.reading import read_safely
from ..errors import ReboundError
from .destinations import KafkaRecord, MemoryTopics


class MemoryConsumer:
    """Handles the records of its topics from the beginning, one after the other.

    Args:
        config: the consumer's configuration. What concerns Kafka and threads has no effect.
        app: the Celery app.
        rebound: stores retries and dead letters.
        clock: tells the time.

    Raises:
        ReboundError: if the consumer keeps the order of keys while retrying: memory has no chains.
    """

    def __init__(self, config: ConsumerConfig, app: Any, rebound: Rebound, clock: Clock) -> None:
        if config.ordering == "key":
            raise ReboundError(f"ordering='key' of the group {config.group!r} is not kept in memory: use `running`")
        self._closing = ExitStack()
        self.config = config = self._closing.enter_context(callable_by_threads(config, app.set_current))
        self._rebound = rebound
        self._clock = clock
        self._failures = FailureHandler(config, rebound.settings)
        self._attempt = self._failures.attempt(clock)
        self._offset_tracker = OffsetTracker()
        self._consumed: Counter[str] = Counter()
        self._names = frozenset(config.topic_names())
        pattern = config.topic_pattern(rebound.settings.dead_letter_suffix)
        self._pattern = None if pattern is None else re.compile(pattern)

    def stats(self) -> ConsumerStats:
        """Return the counts so far."""
        return self._offset_tracker.stats()

    def consume(self, topics: MemoryTopics) -> bool:
        """Handle the records that are new; return whether there were any."""
        found = False
        for name in topics.names():
            if name in self._names or (self._pattern is not None and self._pattern.match(name)):
                for raw in topics.records(name)[self._consumed[name] :]:
                    self._consumed[name] += 1
                    self._handle(raw)
                    found = True
        return found

    def close(self) -> None:
        """End the event loop of an async handler."""
        self._closing.close()

    def _handle(self, raw: KafkaRecord) -> None:
        record = read_safely(raw, self.config.group)
        if record.group not in (None, self.config.group):
            return
        (job,), _ = self._offset_tracker.admit(Partition(raw.topic, raw.partition), [(raw.offset, record)])
        try:
            self._attempt(record)
        except Exception as error:  # noqa: BLE001 - any exception of the user's handler is a failed attempt
            failed = self._failures.decide(job, error, self._clock.now_ms())
            if failed is None:
                self._offset_tracker.drop(job)
            else:
                self._rebound.store([(failed.message, failed.due_ms)])
                self._offset_tracker.stored([(job, failed.dead)])
        else:
            self._offset_tracker.succeed(job)
