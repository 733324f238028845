"""The threads that call the handler."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from .. import tracing
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import DeadLetterLimitError
from .attempt import Handled
from .config import ConsumerConfig, Handler
from .failure_handler import FailedRecord, FailureHandler, log_fields
from .handler_task import HandlerTask
from .key_queues import KeyQueues
from .offset_tracker import OffsetTracker
from .ordering import Ordering
from .partition_tracker import Job
from .retry_writer import RetryWriter
from .taken_job import TakenJob

if TYPE_CHECKING:
    from ..tracing import Tracer

logger = logging.getLogger(__name__)

#: What makes an attempt a failed one. What a plain handler awaits in a loop of its own may be cancelled too.
_FAILURES = (Exception, asyncio.CancelledError)


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
        self._handler = failure_handler.attempt(clock)
        #: For records that are taken from chains: they have waited already.
        self._undelayed_handler = failure_handler.attempt(clock, delays=False)
        self._handler_task = handler_task
        self._failure_handler = failure_handler
        self._offset_tracker = offset_tracker
        self._key_queues = key_queues
        self._retry_writer = retry_writer
        self._wake = wake
        self._ordering = ordering
        self._clock = clock
        self._group = config.group
        self._wants_spans = failure_handler.wants_spans
        self._current: list[Job | None] = [None] * config.concurrency
        #: Handles one record in the caller's thread. An exception that is not an `Exception` passes through.
        self.handle: Callable[[Job], None] = self._handle if ordering is None else self._handle_in_order
        #: An exception of a handler that is not an `Exception`, for example SystemExit. It ends the consumer.
        self.fatal: BaseException | None = None

    def start(self) -> None:
        """Start the threads."""
        for number in range(len(self._current)):
            threading.Thread(target=self._run, args=(number,), name=f"rebound-handler-{number}", daemon=True).start()

    def running(self) -> list[Job]:
        """Return the records that are with a handler."""
        return [job for job in self._current if job is not None]

    def log_hung(self) -> None:
        """Log the records whose handlers have not returned in time."""
        for job in self.running():
            if not job.tracker.released:
                logger.error(
                    "the handler still works at %s; the record stays uncommitted and will be handled again",
                    job.record.origin,
                    extra={"event": "handler_hung", **log_fields(job.record)},
                )

    def _run(self, number: int) -> None:
        self._handler_task.enter_thread()
        take, current = self._key_queues.take, self._current
        handle = self.handle
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
        if isinstance(error, DeadLetterLimitError):
            # Every thread meets the limit, until all have stopped.
            if self.fatal is None:
                logger.critical("%s", error, extra={"event": "dead_letter_limit", **log_fields(record)})
            return
        redact = self._failure_handler.redact
        redact.log(
            logger,
            "the handler raised %s for %s[%d]@%d (message %s), which ends the consumer; the record is not committed, "
            "so it comes again",
            redact.text(repr(error))[:200],
            record.topic,
            record.partition,
            record.offset,
            record.id,
            error=error,
            extra={"event": "handler_exit", **log_fields(record)},
            level=logging.CRITICAL,
        )

    def _handle(self, job: Job) -> None:
        self._settle(job, self._call(job, self._handler), self._retry_writer.put)

    def _handle_in_order(self, job: Job) -> None:
        ordering = self._ordering
        assert ordering is not None
        if isinstance(job, TakenJob):
            ordering.run(job, partial(self._call, handler=self._undelayed_handler))
        elif job.queue_key is None or not ordering.sets_aside(job):
            self._settle(job, self._call(job, self._handler), ordering.failed)

    def _settle(self, job: Job, outcome: Handled | FailedRecord, store: Callable[[FailedRecord], None]) -> None:
        """Note that a record is done, or store its retry or dead letter."""
        if outcome is Handled.SUCCEEDED:
            self._offset_tracker.succeed(job)
        elif outcome is Handled.DROPPED:
            self._offset_tracker.drop(job)
            self._wake.set()
        else:
            store(outcome)

    def _call(self, job: Job, handler: Handler, *, is_traced: bool = False) -> Handled | FailedRecord:
        """Call the handler with a record. Return how it has ended: if it has failed, what must be stored."""
        if not is_traced and (tracer := tracing.find(wanted=self._wants_spans)) is not None:
            return self._call_traced(tracer, job, handler)
        if self._handler_task.is_observed():
            return self._call_observed(job, handler)
        try:
            handler(job.record)
        except _FAILURES as error:
            return self._failure_handler.decide(job, error, self._clock.now_ms()) or Handled.DROPPED
        return Handled.SUCCEEDED

    def _call_traced(self, tracer: Tracer, job: Job, handler: Handler) -> Handled | FailedRecord:
        """Call the handler within a span. A span that a receiver of Celery's signals begins is a child of it."""
        with tracer.attempt(job.record, self._group) as attempt:
            ending = self._call(job, handler, is_traced=True)
            if isinstance(ending, FailedRecord):
                return replace(ending, message=attempt.failed(ending.message))
            if ending is Handled.DROPPED:
                attempt.dropped()
        return ending

    def _call_observed(self, job: Job, handler: Handler) -> Handled | FailedRecord:
        """Call the handler with Celery's task signals around it."""
        with self._handler_task.run(job.record) as outcome:
            try:
                value = handler(job.record)
            except _FAILURES as error:
                failed = self._failure_handler.decide(job, error, self._clock.now_ms())
                if failed is None:
                    outcome.dropped(error)
                else:
                    outcome.failed(error, is_dead=failed.dead)
                ending: Handled | FailedRecord = failed or Handled.DROPPED
            else:
                outcome.succeeded(value)
                ending = Handled.SUCCEEDED
        return ending
