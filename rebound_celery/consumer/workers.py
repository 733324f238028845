"""The threads that call the handler."""

from __future__ import annotations

import logging
import threading

from ..clock import SYSTEM_CLOCK, Clock
from .config import ConsumerConfig
from .failure_handler import FailedRecord, FailureHandler, log_fields
from .handler_task import HandlerTask
from .key_queues import KeyQueues
from .offset_tracker import OffsetTracker
from .ordering import Ordering
from .partition_tracker import Job
from .retry_writer import RetryWriter
from .taken_job import TakenJob

logger = logging.getLogger(__name__)


class Workers:
    """`concurrency` threads that call the handler. They are daemons: a hung handler does not keep the process alive."""

    def __init__(
        self,
        config: ConsumerConfig,
        handler_task: HandlerTask,
        failure_handler: FailureHandler,
        offset_tracker: OffsetTracker,
        key_queues: KeyQueues,
        retry_writer: RetryWriter,
        wake: threading.Event,
        ordering: Ordering | None = None,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._handler = config.handler
        self._handler_task = handler_task
        self._failure_handler = failure_handler
        self._offset_tracker = offset_tracker
        self._key_queues = key_queues
        self._retry_writer = retry_writer
        self._wake = wake
        self._ordering = ordering
        self._clock = clock
        self._current: list[Job | None] = [None] * config.concurrency
        #: An exception of a handler that is not an `Exception`, for example SystemExit. It ends the consumer.
        self.fatal: BaseException | None = None

    def start(self) -> None:
        """Start the threads."""
        for number in range(len(self._current)):
            threading.Thread(target=self._run, args=(number,), name=f"rebound-handler-{number}", daemon=True).start()

    def running(self) -> list[Job]:
        """Return the records that are with a handler."""
        return [job for job in self._current if job is not None]

    def _run(self, number: int) -> None:
        self._handler_task.enter_thread()
        take, current = self._key_queues.take, self._current
        handle = self._handle if self._ordering is None else self._handle_in_order
        job = take()
        while job is not None:
            current[number] = job
            try:
                handle(job)
            except BaseException as error:  # noqa: BLE001 - the loop raises it again, in the thread of run()
                self._offset_tracker.abandon(job)
                self._tell_end(job, error)
                self.fatal = self.fatal or error
                self._wake.set()
                current[number] = None
                job = take()
            else:
                current[number] = None
                job = take(job)

    def _tell_end(self, job: Job, error: BaseException) -> None:
        """Log at which record the consumer ends. SystemExit ends the process without a word, so nothing else tells."""
        record = job.record
        logger.critical(
            "the handler raised %s for %s[%d]@%d (message %s), which ends the consumer; the record is not committed, "
            "so it comes again",
            repr(error)[:200],
            record.topic,
            record.partition,
            record.offset,
            record.id,
            exc_info=error,
            extra={"event": "handler_exit", **log_fields(record)},
        )

    def _handle(self, job: Job) -> None:
        failed = self._call(job)
        if failed is None:
            self._offset_tracker.succeed(job)
        else:
            self._retry_writer.put(failed)

    def _handle_in_order(self, job: Job) -> None:
        ordering = self._ordering
        assert ordering is not None
        if isinstance(job, TakenJob):
            ordering.run(job, self._call)
        elif job.queue_key is None or not ordering.sets_aside(job):
            failed = self._call(job)
            if failed is None:
                self._offset_tracker.succeed(job)
            else:
                ordering.failed(failed)

    def _call(self, job: Job) -> FailedRecord | None:
        """Call the handler with a record. Return what must be stored if it has failed."""
        if self._handler_task.is_observed():
            return self._call_observed(job)
        try:
            self._handler(job.record)
        except Exception as error:  # noqa: BLE001 - any exception of the user's handler is a failed attempt
            return self._failure_handler.decide(job, error, self._clock.now_ms())
        return None

    def _call_observed(self, job: Job) -> FailedRecord | None:
        """Call the handler with Celery's task signals around it."""
        failed = None
        with self._handler_task.run(job.record) as outcome:
            try:
                value = self._handler(job.record)
            except Exception as error:  # noqa: BLE001 - any exception of the user's handler is a failed attempt
                failed = self._failure_handler.decide(job, error, self._clock.now_ms())
                outcome.failed(error, is_dead=failed.dead)
            else:
                outcome.succeeded(value)
        return failed
