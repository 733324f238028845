"""The handler threads."""

from __future__ import annotations

import threading
import time

from .config import ConsumerConfig
from .failure_handler import FailureHandler
from .key_queues import KeyQueues
from .offset_tracker import Job, OffsetTracker
from .retry_writer import RetryWriter


class Workers:
    """`concurrency` threads that call the handler. They are daemons: a hung handler does not keep the process."""

    def __init__(
        self,
        config: ConsumerConfig,
        failure_handler: FailureHandler,
        offset_tracker: OffsetTracker,
        key_queues: KeyQueues,
        retry_writer: RetryWriter,
        wake: threading.Event,
    ) -> None:
        self._handler = config.handler
        self._failure_handler = failure_handler
        self._offset_tracker = offset_tracker
        self._key_queues = key_queues
        self._retry_writer = retry_writer
        self._wake = wake
        self._current: list[Job | None] = [None] * config.concurrency
        #: What a handler raised that is no Exception: the consumer ends with it.
        self.fatal: BaseException | None = None

    def start(self) -> None:
        for number in range(len(self._current)):
            threading.Thread(target=self._run, args=(number,), name=f"rebound-handler-{number}", daemon=True).start()

    def running(self) -> list[Job]:
        """What the handlers are at."""
        return [job for job in self._current if job is not None]

    def _run(self, number: int) -> None:
        take, current = self._key_queues.take, self._current
        job = take()
        while job is not None:
            current[number] = job
            try:
                self._handle(job)
            except BaseException as error:  # noqa: BLE001 - raised again by the loop, in the thread of run()
                self._offset_tracker.abandon(job)
                self.fatal = self.fatal or error
                self._wake.set()
                current[number] = None
                job = take()
            else:
                current[number] = None
                job = take(job)

    def _handle(self, job: Job) -> None:
        try:
            self._handler(job.record)
        except Exception as error:  # noqa: BLE001 - whatever the user's handler raises is a failed attempt
            self._retry_writer.put(self._failure_handler.decide(job, error, time.time_ns() // 1_000_000))
        else:
            self._offset_tracker.succeed(job)
