"""The loop that owns a KafkaConsumer: it polls, hands records to the handler threads, commits, and stops in order.

Handler threads take records from the key queues. The retry writer stores the failed records. Meanwhile the loop goes
on polling Kafka, because a consumer that does not poll must leave its group.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from kafka import KafkaConsumer

from ..clock import SYSTEM_CLOCK, Clock
from ..config import Settings
from ..message import Record
from ..message.headers import KafkaRecord
from ..registry import RetryScheduler
from .backpressure import Backpressure
from .commits import Commits
from .config import ConsumerConfig
from .failure_handler import FailureHandler
from .failure_pause import FailurePause, FailurePauseOptions
from .gone_offsets import GoneOffsets
from .handler_task import HandlerTask
from .health_reporter import HealthReporter
from .key_queues import KeyQueues
from .offset_tracker import OffsetTracker
from .ordering import Ordering
from .polling import Polling
from .positions import Positions
from .reading import read_safely
from .rebalance import RebalanceListener, release
from .retry_writer import RetryWriter
from .stop import StopFlag
from .topics import PatternWatch, report_start
from .unordered import break_up_chains
from .unreadable import Unreadable
from .workers import Workers

#: The time for the last commit, and again the time for leaving the group, in seconds.
LEAVE_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)


class Loop:
    """Runs one KafkaConsumer until the consumer stops, or the KafkaConsumer has to be replaced."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        config: ConsumerConfig,
        scheduler: RetryScheduler,
        handler_task: HandlerTask,
        offset_tracker: OffsetTracker,
        flag: StopFlag,
        health_reporter: HealthReporter,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._consumer = consumer
        self._config = config
        self._settings: Settings = scheduler.settings
        self._redact = self._settings.redact
        self._offset_tracker = offset_tracker
        self._flag = flag
        self._health_reporter = health_reporter
        self._clock = clock
        self._wake = threading.Event()
        self._failure_pause: FailurePause | None = None
        if isinstance(config.failure_pause, FailurePauseOptions):
            self._failure_pause = FailurePause(config.failure_pause, config.group, clock)
            config = replace(config, handler=self._failure_pause.watch(config.handler))
        self._key_queues = KeyQueues(config.max_in_flight // 2, self._wake)
        failure_handler = FailureHandler(config, self._settings)
        self._ordering: Ordering | None = None
        if config.ordering is not None:
            self._ordering = Ordering(
                config, scheduler, offset_tracker, self._key_queues, failure_handler, self._wake, clock=clock
            )
            self._retry_writer: RetryWriter = self._ordering.writer
        else:
            self._retry_writer = RetryWriter(scheduler, offset_tracker, self._wake, clock=clock)
        self._workers = Workers(
            config,
            handler_task,
            failure_handler,
            offset_tracker,
            self._key_queues,
            self._retry_writer,
            self._wake,
            self._ordering,
            clock=clock,
        )
        prepare = partial(break_up_chains, scheduler, config.group) if self._ordering is None else self._ordering.load
        self._positions = Positions(consumer, offset_tracker, prepare)
        self._gone_offsets = GoneOffsets(consumer)
        self._backpressure = Backpressure(
            consumer, offset_tracker, config.max_in_flight, config.concurrency, config.commit_interval, clock=clock
        )
        self._commits = Commits(
            consumer, offset_tracker, config.commit_interval, self._backpressure.commit_answered, clock=clock
        )
        self._listener = RebalanceListener(consumer, offset_tracker, self._key_queues, self._positions, clock=clock)
        self._unreadable = Unreadable(
            consumer, config, offset_tracker, self._key_queues, self._retry_writer, failure_handler, clock=clock
        )
        self._polling = Polling(
            consumer,
            offset_tracker,
            self._commits,
            self._backpressure,
            self._failure_pause,
            flag,
            self._wake,
            self._redact,
            clock=clock,
        )
        self._pattern_watch = PatternWatch(consumer, config, clock=clock)
        self._draining = False
        #: Whether the KafkaConsumer must be replaced by a new one. The new one has its own loop.
        self.replace = False
        self._next_stats = clock.monotonic() + (config.stats_interval or float("inf"))

    def run(self) -> None:
        """Consume until the flag says stop or the KafkaConsumer must be replaced.

        Raises the error that ends the loop.
        """
        pattern = self._config.topic_pattern(self._settings.dead_letter_suffix)
        if pattern is None:
            self._consumer.subscribe(topics=self._config.topic_names(), listener=self._listener)
        else:
            self._consumer.subscribe(pattern=pattern, listener=self._listener)
        self._retry_writer.start()
        if self._ordering is not None:
            self._ordering.start()
        self._workers.start()
        try:
            while not (self._flag.stop or self.replace) and self._workers.fatal is None:
                self._turn()
        finally:
            self._end()
        if self._workers.fatal is not None:
            raise self._workers.fatal

    def _turn(self) -> None:
        if self._key_queues.size >= self._config.max_in_flight:
            # Usually the handlers finish half of the records within this wait. Then no partition has to be paused.
            self._polling.wait()
        self._backpressure.regulate(
            closed=self._retry_writer.is_down or self._is_closed_by_failures(),
            kept_paused={*self._unreadable.kept_paused(), *self._positions.unknown},
        )
        self._admit(self._positions.known(self._polling.next_records()))
        if self._positions.unknown:
            self._backpressure.begin()
        if new := self._positions.find():
            report_start(self._consumer, self._config.group, new)
        self._unreadable.act(self._positions.unknown)
        self._positions.note()
        self._gone_offsets.report()
        self._commits.send_if_due()
        if self._clock.monotonic() >= self._next_stats:
            self._next_stats += self._config.stats_interval
            self.log_stats("stats")
        self._pattern_watch.warn_if_nothing_matches()
        outage = "retries cannot be stored" if self._retry_writer.is_down else self._polling.outage or self._failing()
        self.replace = self._health_reporter.check(
            self._consumer, self._offset_tracker, self._positions.unknown, outage, self._unreadable.detail
        )

    def _is_closed_by_failures(self) -> bool:
        pause = self._failure_pause
        return pause is not None and pause.closes(is_busy=self._offset_tracker.busy() > 0)

    def _failing(self) -> str | None:
        pause = self._failure_pause
        return None if pause is None or pause.reason is None else f"most records fail with {pause.reason}"

    def _admit(self, polled: Mapping[Any, Sequence[KafkaRecord]]) -> None:
        if self._draining:
            return  # A rebalance during the stop brought these records. They are not handled and not committed.
        group = self._config.group
        for partition, batch in polled.items():
            records: list[tuple[int, Record | None]] = []
            for raw in batch:
                record = read_safely(raw, group, self._redact)
                target = record.group
                records.append((raw.offset, record if target is None or target == group else None))
            jobs, replaced = self._offset_tracker.admit(partition, records)
            if replaced is not None:
                release(self._offset_tracker, self._key_queues, replaced)
            if self._failure_pause is not None:
                self._failure_pause.fetched(len(jobs))
            self._key_queues.add(jobs)

    def _end(self) -> None:
        """Finish the started records, store the failed ones, commit, and leave the group."""
        deadline = self._clock.monotonic() + self._config.stop_timeout
        self._draining = self._listener.draining = True
        if self._ordering is not None:
            self._ordering.stop_taking()
        try:
            trackers = self._offset_tracker.trackers()
            # If a handler has ended the consumer, later records with the same key must not be started.
            removed = self._key_queues.remove_waiting(trackers, everything=self._workers.fatal is not None)
            for tracker in trackers:
                tracker.held += removed.get(tracker.partition, [])
            while self._offset_tracker.busy() and self._clock.monotonic() < deadline and not self._flag.at_once:
                self._backpressure.regulate(closed=True)
                self._polling.next_records(0)
                self._polling.wait()
                self._health_reporter.report_stopping()
                self._commits.send_if_due()
        except Exception as error:  # noqa: BLE001 - Kafka refuses: perhaps the records that are done can be committed
            self._redact.log(logger, "waiting for the last records failed", error=error, extra={"event": "stop_failed"})
        finally:
            self._workers.log_hung()
            self._retry_writer.close()
            if self._ordering is not None:
                self._ordering.close()
            trackers = self._offset_tracker.trackers()
            marks = self._offset_tracker.to_commit(trackers)
            for tracker in trackers:
                release(self._offset_tracker, self._key_queues, tracker)
            self._key_queues.close()
            self._listener.closing = True
            if marks:
                self._commits.send_last(marks, LEAVE_TIMEOUT_S)
            self._leave_group()

    def _leave_group(self) -> None:
        try:
            self._consumer.close(timeout_ms=LEAVE_TIMEOUT_S * 1000)
        except Exception as error:  # noqa: BLE001 - the group notices after the session time-out
            self._redact.log(logger, "leaving the group failed", error=error, extra={"event": "stop_failed"})
        self.log_stats("replaced" if self.replace else "stopped")

    def log_stats(self, event: str) -> None:
        """Log the counts of the consumer."""
        stats = self._offset_tracker.stats()
        logger.info(
            "%s: %d records, %.2f %% successful, %.2f %% retried, %d dead, %d errors",
            self._config.group,
            stats.total,
            stats.success_rate,
            stats.retry_rate,
            stats.dead,
            stats.errors,
            extra={"event": event, "group": self._config.group, **stats.to_dict()},
        )
