"""The loop that owns kafka-python's consumer: fetch, hand out, commit, and end in order.

Handler threads take records from the key queues. The retry writer stores failures. The loop supplies both and keeps
polling Kafka without a pause, so that slow handlers do not cost the membership of the group.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer
from kafka import errors as kafka_errors

from ..compat.kafka_python import unstick
from ..config import Settings
from ..message import Record
from ..message.headers import KafkaRecord
from ..registry import RetryScheduler
from .backpressure import Backpressure
from .config import ConsumerConfig
from .connection import FATAL
from .failure_handler import FailureHandler, log_fields
from .key_queues import KeyQueues
from .offset_tracker import OffsetTracker, Partition
from .reading import read_safely
from .rebalance import RebalanceListener, forget, kafka_offsets
from .retry_writer import RetryWriter
from .stall_detector import StallDetector
from .stop import StopFlag
from .unreadable import Unreadable
from .workers import Workers

IDLE_POLL_MS = 100

#: While fetching is paused, a poll returns at once; but kafka-python cannot finish some of its work (a new look at the
#: topics of a pattern) within a poll of no length, so from time to time one has some.
PATIENT_POLL_EVERY_S = 0.5

#: How long the loop waits for the handlers before it looks again, when it has nothing to give them.
WAIT_S = 0.02

#: How long the last commit, and then leaving the group, may take.
FAREWELL_S = 5.0

#: A commit that is not answered for so long no longer holds back the next.
COMMIT_PATIENCE_S = 10.0

#: How long the loop may wait for the answer to a question.
ASK_MS = 2_000

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 5.0

logger = logging.getLogger(__name__)


class Loop:
    """The life of one KafkaConsumer."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        config: ConsumerConfig,
        installed: RetryScheduler,
        offset_tracker: OffsetTracker,
        flag: StopFlag,
        stall_detector: StallDetector,
    ) -> None:
        self._consumer = consumer
        self._config = config
        self._settings: Settings = installed.settings
        self._offset_tracker = offset_tracker
        self._flag = flag
        self._stall_detector = stall_detector
        self._wake = threading.Event()
        self._key_queues = KeyQueues(config.max_in_flight // 2, self._wake)
        self._retry_writer = RetryWriter(installed, offset_tracker, self._wake)
        failure_handler = FailureHandler(config, self._settings)
        self._workers = Workers(
            config, failure_handler, offset_tracker, self._key_queues, self._retry_writer, self._wake
        )
        self._listener = RebalanceListener(
            consumer, offset_tracker, self._key_queues, consumer.config["max_poll_interval_ms"] / 1000
        )
        self._unreadable = Unreadable(
            consumer, config, offset_tracker, self._key_queues, self._retry_writer, failure_handler
        )
        self._backpressure = Backpressure(consumer, offset_tracker, config.max_in_flight)
        self._draining = False
        #: This loop is to be followed by another one, with a new KafkaConsumer.
        self.renew = False
        now = time.monotonic()
        self._next_commit = now + config.commit_interval
        self._commit_deadline: float | None = None
        self._commit_failing = False
        self._next_stats = now + (config.stats_interval or float("inf"))
        self._next_patient_poll = 0.0
        self._poll_error: str | None = None
        self._trouble: str | None = None
        self._backoff = FIRST_BACKOFF_S

    def run(self) -> None:
        """Consume until the flag says stop; raises what ended it otherwise."""
        pattern = self._config.topic_pattern(self._settings.dead_letter_suffix)
        if pattern is None:
            self._consumer.subscribe(topics=self._config.topic_names(), listener=self._listener)
        else:
            self._consumer.subscribe(pattern=pattern, listener=self._listener)
        self._retry_writer.start()
        self._workers.start()
        try:
            while not (self._flag.stop or self.renew) and self._workers.fatal is None:
                self._turn()
        finally:
            self._end()
        if self._workers.fatal is not None:
            raise self._workers.fatal

    def _turn(self) -> None:
        if self._key_queues.size >= self._config.max_in_flight:
            # Most often the handlers are through with half of it at once, and pausing is not worth while.
            self._wait()
        self._backpressure.regulate(closed=self._retry_writer.is_down, standing=self._unreadable.standing())
        now = time.monotonic()
        timeout_ms = IDLE_POLL_MS
        if self._backpressure.is_full and now < self._next_patient_poll:
            timeout_ms = 0
            self._wait()
        else:
            self._next_patient_poll = now + PATIENT_POLL_EVERY_S
        self._admit(self._poll(timeout_ms))
        self._unreadable.settle(self._listener.stale_positions)
        if time.monotonic() >= self._next_commit:
            self._commit()
        if time.monotonic() >= self._next_stats:
            self._next_stats += self._config.stats_interval
            self.log_stats("stats")
        trouble = "retries cannot be stored" if self._retry_writer.is_down else self._trouble
        self.renew = self._stall_detector.look(
            self._consumer, self._offset_tracker, self._listener.stale_positions, trouble, self._unreadable.detail
        )

    def _wait(self) -> None:
        self._wake.wait(WAIT_S)
        self._wake.clear()

    def _poll(self, timeout_ms: int) -> Mapping[Any, Sequence[KafkaRecord]]:
        """Poll; an error that may pass is said once, and waited for."""
        unstick(self._consumer)
        try:
            records: Mapping[Any, Sequence[KafkaRecord]] = self._consumer.poll(timeout_ms, self._backpressure.room)
        except FATAL:
            raise
        except Exception as error:
            text = repr(error)
            self._trouble = f"Kafka cannot be polled: {text}"
            if text != self._poll_error:
                self._poll_error = text
                logger.exception("polling Kafka failed; it is tried again", extra={"event": "poll_failed"})
            deadline = time.monotonic() + self._backoff
            self._backoff = min(2 * self._backoff, LAST_BACKOFF_S)
            while time.monotonic() < deadline and not self._flag.stop:
                self._wait()
            return {}
        self._trouble = None
        if records and self._poll_error is not None:
            self._poll_error = None
            self._backoff = FIRST_BACKOFF_S
        if stale_positions := self._listener.stale_positions:
            records = {partition: batch for partition, batch in records.items() if partition not in stale_positions}
            self._find_positions()
        return records

    def _find_positions(self) -> None:
        """Go on where the group is, in partitions that somebody else may have had meanwhile."""
        for partition in list(self._listener.stale_positions):
            try:
                offset = self._consumer.committed(partition, timeout_ms=ASK_MS)
                # With nothing committed, nobody else has done anything: this consumer's own mark holds, if it has one.
                if offset is None:
                    offset = self._listener.stale_positions[partition]
                if offset is not None:
                    self._consumer.seek(partition, offset)
            except FATAL:
                raise
            except (kafka_errors.KafkaError, ValueError) as error:
                # The next turn tries again; until then its records are passed over.
                logger.info(
                    "the position of %s[%d] is not known yet: %r", *partition, error, extra={"event": "stale_positions"}
                )
            else:
                del self._listener.stale_positions[partition]

    def _admit(self, polled: Mapping[Any, Sequence[KafkaRecord]]) -> None:
        if self._draining:
            return  # a rebalance during the stop; nobody will handle these, and nothing of them is committed
        group = self._config.group
        for partition, batch in polled.items():
            records: list[tuple[int, Record | None]] = []
            for raw in batch:
                record = read_safely(raw, group)
                mine = record.group is None or record.group == group
                records.append((raw.offset, record if mine else None))
            jobs, replaced = self._offset_tracker.admit(partition, records)
            if replaced is not None:
                forget(self._offset_tracker, self._key_queues, replaced)
            self._key_queues.add(jobs)

    def _commit(self) -> None:
        now = time.monotonic()
        self._next_commit = now + self._config.commit_interval
        if self._commit_deadline is not None and now < self._commit_deadline:
            return
        marks = self._offset_tracker.to_commit()
        if not marks:
            return

        def answered(_offsets: object, result: object) -> None:
            self._commit_deadline = None
            if isinstance(result, BaseException):
                self._commit_failed(result)
            else:
                self._commit_failing = False
                self._offset_tracker.confirm(marks)

        self._commit_deadline = now + COMMIT_PATIENCE_S
        try:
            self._consumer.commit_async(kafka_offsets(marks), callback=answered)
        except FATAL:
            raise
        except kafka_errors.KafkaError as error:
            self._commit_deadline = None
            self._commit_failed(error)

    def _commit_failed(self, error: BaseException) -> None:
        # During a rebalance this is the ordinary course; the listener commits, or the next turn does.
        level = logging.DEBUG if self._commit_failing else logging.WARNING
        if isinstance(error, kafka_errors.RebalanceInProgressError):
            level = logging.INFO
        else:
            self._commit_failing = True
        logger.log(level, "a commit failed and is tried again: %r", error, extra={"event": "commit_failed"})

    def _end(self) -> None:
        """Finish what is begun, store what failed, commit, and leave the group."""
        deadline = time.monotonic() + self._config.stop_timeout
        self._draining = self._listener.draining = True
        try:
            trackers = self._offset_tracker.trackers()
            # Behind a record that a handler has ended the consumer with, nothing of its key may be begun.
            taken = self._key_queues.withdraw(trackers, everything=self._workers.fatal is not None)
            for tracker in trackers:
                tracker.held += taken.get(tracker.partition, [])
            while (
                self._offset_tracker.busy(self._offset_tracker.trackers())
                and time.monotonic() < deadline
                and not self._flag.hurry
            ):
                self._backpressure.regulate(closed=True)
                self._poll(0)
                self._wait()
                self._stall_detector.stopping()
                if time.monotonic() >= self._next_commit:
                    self._commit()
        except Exception:
            # Kafka refuses; what is done can perhaps still be committed.
            logger.exception("waiting for the last records failed", extra={"event": "stop_failed"})
        finally:
            self._say_what_is_left()
            self._retry_writer.close()
            trackers = self._offset_tracker.trackers()
            marks = self._offset_tracker.to_commit(trackers)
            for tracker in trackers:
                forget(self._offset_tracker, self._key_queues, tracker)
            self._key_queues.close()
            self._farewell(marks)

    def _say_what_is_left(self) -> None:
        for job in self._workers.running():
            if not job.tracker.forgotten:
                logger.error(
                    "the handler is still at %s; the record stays uncommitted and will be handled again",
                    job.record.origin,
                    extra={"event": "handler_hung", **log_fields(job.record)},
                )

    def _farewell(self, marks: dict[Partition, int]) -> None:
        self._listener.closing = True
        try:
            if marks:
                self._consumer.commit(kafka_offsets(marks), timeout_ms=FAREWELL_S * 1000)
        except Exception as error:  # noqa: BLE001 - whatever it is, the group is to be left
            logger.warning(
                "the last commit failed (%r); some records will be handled again",
                error,
                extra={"event": "commit_failed"},
            )
        try:
            self._consumer.close(timeout_ms=FAREWELL_S * 1000)
        except Exception:
            logger.exception("leaving the group failed", extra={"event": "stop_failed"})
        self.log_stats("renewed" if self.renew else "stopped")

    def log_stats(self, event: str) -> None:
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
