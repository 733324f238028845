"""A consumer in memory: rebound's own attempts, failure handling and order, called in the test's thread."""

from __future__ import annotations

import re
import threading
from collections import Counter
from contextlib import ExitStack
from typing import Any

from ..app import Rebound
from ..clock import Clock
from ..consumer import ConsumerConfig, ConsumerStats
from ..consumer.async_handler import callable_by_threads
from ..consumer.failure_handler import FailureHandler
from ..consumer.handler_task import HandlerTask
from ..consumer.key_queues import KeyQueues
from ..consumer.offset_tracker import OffsetTracker
from ..consumer.ordering import Ordering
from ..consumer.partition_tracker import Partition
from ..consumer.reading import read_safely
from ..consumer.retry_writer import RetryWriter
from ..consumer.workers import Workers
from .destinations import KafkaRecord, MemoryTopics


class MemoryConsumer:
    """Handles the records of its topics from the beginning, one after the other.

    Args:
        config: the consumer's configuration. What concerns Kafka and threads has no effect.
        app: the Celery app.
        rebound: stores retries and dead letters.
        clock: tells the time.
    """

    def __init__(self, config: ConsumerConfig, app: Any, rebound: Rebound, clock: Clock) -> None:
        self._closing = ExitStack()
        self.config = config = self._closing.enter_context(callable_by_threads(config, app.set_current))
        self._consumed: Counter[str] = Counter()
        self._names = frozenset(config.topic_names())
        pattern = config.topic_pattern(rebound.settings.dead_letter_suffix)
        self._pattern = None if pattern is None else re.compile(pattern)
        # These are the parts of `consumer.loop.Loop`. None of their threads is started.
        wake = threading.Event()
        failures = FailureHandler(config, rebound.settings)
        self._offset_tracker = tracker = OffsetTracker()
        self._key_queues = queues = KeyQueues(0, wake)
        ordering = None
        if config.ordering is None:
            self._writer = RetryWriter(rebound, tracker, wake, clock=clock)
        else:
            ordering = Ordering(config, rebound, tracker, queues, failures, wake, clock=clock)
            self._writer = ordering.writer
        task = HandlerTask(app, config)
        self._workers = Workers(config, task, failures, tracker, queues, self._writer, wake, ordering, clock=clock)

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
        """Handle a record, and those that have waited behind it in its key's order."""
        record = read_safely(raw, self.config.group)
        own = record if record.group in (None, self.config.group) else None
        jobs, _ = self._offset_tracker.admit(Partition(raw.topic, raw.partition), [(raw.offset, own)])
        self._key_queues.add(jobs)
        while self._key_queues.size and (job := self._key_queues.take()) is not None:
            try:
                self._workers.handle(job)
            except BaseException:
                self._offset_tracker.abandon(job)
                raise
            finally:
                self._key_queues.finish(job)
            self._writer.write_now()
