"""The handler threads."""

from __future__ import annotations

import threading
import time

from .config import ConsumerConfig
from .failures import Judge
from .keeper import Keeper
from .lanes import Lanes
from .ledger import Job, Ledger


class Workers:
    """`concurrency` threads that call the handler. They are daemons: a hung handler does not keep the process."""

    def __init__(
        self,
        config: ConsumerConfig,
        judge: Judge,
        ledger: Ledger,
        lanes: Lanes,
        keeper: Keeper,
        wake: threading.Event,
    ) -> None:
        self._handler = config.handler
        self._judge = judge
        self._ledger = ledger
        self._lanes = lanes
        self._keeper = keeper
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
        take, current = self._lanes.take, self._current
        job = take()
        while job is not None:
            current[number] = job
            try:
                self._handle(job)
            except BaseException as error:  # noqa: BLE001 - raised again by the loop, in the thread of run()
                self._ledger.abandon(job)
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
            self._keeper.put(self._judge.judge(job, error, time.time_ns() // 1_000_000))
        else:
            self._ledger.succeed(job)
