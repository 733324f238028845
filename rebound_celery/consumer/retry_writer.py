"""Stores failed records in Redis, many at once, in its own thread.

The loop's thread cannot do this, because it is blocked inside kafka-python during a rebalance.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import NotStoredError
from ..registry import RetryScheduler
from .failure_handler import FailedRecord
from .offset_tracker import OffsetTracker

#: The largest batch for one call of `store`: the number of messages, and the bytes of their values.
BATCH_MESSAGES = 500
BATCH_BYTES = 8_000_000

#: How long the first failed record waits for others, in seconds.
LINGER_S = 0.005

#: How often a thread without failed records looks whether the workers claim what is due, in seconds.
LOOK_EVERY_S = 30.0

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 5.0

logger = logging.getLogger(__name__)


class RetryWriter:
    """Takes failed records from the handler threads and tries to store them until Redis has them."""

    def __init__(
        self,
        scheduler: RetryScheduler,
        offset_tracker: OffsetTracker,
        wake: threading.Event,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._scheduler = scheduler
        self._offset_tracker = offset_tracker
        self._wake = wake
        self._clock = clock
        self._waiting: deque[FailedRecord] = deque()
        self._changed = threading.Condition(threading.Lock())
        #: Whether the thread waits, or is about to wait, and must be woken.
        self._is_idle = False
        self._closed = False
        self._is_down = False
        self._thread = threading.Thread(target=self._run, name="rebound-retry-writer", daemon=True)

    @property
    def is_down(self) -> bool:
        """Whether the last call of `store` failed. Then no more records should be fetched."""
        return self._is_down

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, failed: FailedRecord) -> None:
        """Add a failed record to be stored. Any thread may call this."""
        # No lock is needed: the writer's thread sets `_is_idle` before it looks for records.
        self._waiting.append(failed)
        if self._is_idle:
            with self._changed:
                # The thread may wake up late. Further records must not notify it again.
                self._is_idle = False
                self._changed.notify()

    def write_now(self) -> None:
        """Store what was put, in the caller's thread; raises what `store` raises. The writer's own is not started."""
        while batch := self._take():
            self._write(batch)

    def close(self) -> None:
        """End the thread. Records that are not stored stay uncommitted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        # The thread may be inside a call to Redis. It is a daemon, so the process can end without it.
        self._thread.join(1.0)

    def _run(self) -> None:
        backoff = FIRST_BACKOFF_S
        while batch := self._next_batch():
            kept = self._store(batch)
            self._waiting.extendleft(reversed(kept))
            if not kept:
                backoff = FIRST_BACKOFF_S
                self._report_up()
            elif self._sleep(backoff):
                return
            else:
                backoff = min(2 * backoff, LAST_BACKOFF_S)

    def _next_batch(self) -> list[FailedRecord]:
        """Wait for failed records and return the next batch. An empty batch means that the writer is closed."""
        while True:
            with self._changed:
                self._is_idle = True
                while not self._waiting and not self._closed:
                    if not self._changed.wait(LOOK_EVERY_S):
                        break
                    self._is_idle = True
                self._is_idle = False
                is_quiet = not self._waiting and not self._closed
                if not is_quiet and len(self._waiting) < BATCH_MESSAGES and not self._closed:
                    # Usually others follow at once. One call for many costs little more than a call for one.
                    self._changed.wait_for(lambda: self._closed, LINGER_S)
                if self._closed:
                    return []
            if is_quiet:
                # `store` looks itself. Records that come meanwhile are stored after it.
                self._scheduler.warn_if_unclaimed()
            elif batch := self._take():
                return batch

    def _take(self) -> list[FailedRecord]:
        batch: list[FailedRecord] = []
        size, waiting = 0, self._waiting
        while waiting and len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
            failed = waiting.popleft()
            if failed.job.tracker.released:
                self._drop(failed)
                continue
            batch.append(failed)
            size += len(failed.message.value or b"")
        return batch

    def _sleep(self, seconds: float) -> bool:
        """Wait for `seconds`. Return True at once when the writer is closed, else False."""
        deadline = self._clock.monotonic() + seconds
        with self._changed:
            while not self._closed and (left := deadline - self._clock.monotonic()) > 0:
                self._changed.wait(left)
            return self._closed

    def _store(self, batch: list[FailedRecord]) -> list[FailedRecord]:
        """Store these records. Return the records that are not stored."""
        try:
            self._write(batch)
        except NotStoredError as error:
            self._report_down(error)
            return batch
        except Exception as error:  # noqa: BLE001 - the writer goes on
            if len(batch) == 1:
                # The fault lies in this message and not in Redis. The message is kept and tried again, so the commit
                # of its partition cannot pass it.
                if not self._is_down:
                    self._scheduler.settings.redact.log(
                        logger, "%s cannot be stored", batch[0].message, error=error, extra={"event": "not_stored"}
                    )
                self._report_down(error)
                return batch
            return self._store_one_by_one(batch)
        self._wake.set()
        return []

    def _write(self, batch: Sequence[FailedRecord]) -> None:
        """Store these records, and note that they are stored."""
        self._scheduler.store([(failed.message, failed.due_ms) for failed in batch])
        self._offset_tracker.stored([(failed.job, failed.dead) for failed in batch])

    def _store_one_by_one(self, batch: Sequence[FailedRecord]) -> list[FailedRecord]:
        return [failed for one in batch for failed in self._store([one])]

    def _drop(self, failed: FailedRecord) -> None:
        """Leave out a record whose partition was released."""

    def _report_up(self) -> None:
        if self._is_down:
            self._is_down = False
            logger.warning("retries are stored again; fetching goes on", extra={"event": "store_up"})
            self._wake.set()

    def _report_down(self, error: Exception) -> None:
        if not self._is_down:
            self._is_down = True
            logger.error(
                "retries cannot be stored, fetching pauses until they can: %s",
                self._scheduler.settings.redact.text(str(error)),
                extra={"event": "store_down"},
            )
