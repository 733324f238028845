"""Stores failures in Redis, many at once, in a thread of its own.

Its own thread, because during a rebalance the loop is blocked inside kafka-python while failures have to be stored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque

from ..errors import NotStoredError
from ..registry import RetryScheduler
from .failure_handler import FailedRecord
from .offset_tracker import OffsetTracker

#: What one call of `store` takes at most: messages, and bytes of their values.
BATCH_MESSAGES = 500
BATCH_BYTES = 8_000_000

#: How long the first failure waits for others, in seconds.
LINGER_S = 0.005

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 5.0

logger = logging.getLogger(__name__)


class RetryWriter:
    """Takes failed records from the handler threads and stores them, again and again until Redis has them."""

    def __init__(self, installed: RetryScheduler, offset_tracker: OffsetTracker, wake: threading.Event) -> None:
        self._installed = installed
        self._offset_tracker = offset_tracker
        self._wake = wake
        self._waiting: deque[FailedRecord] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._closed = False
        self._is_down = False
        self._thread = threading.Thread(target=self._run, name="rebound-retry-writer", daemon=True)

    @property
    def is_down(self) -> bool:
        """Whether the last try to store failed: nothing more should be fetched."""
        return self._is_down

    def start(self) -> None:
        self._thread.start()

    def put(self, failed: FailedRecord) -> None:
        with self._changed:
            self._waiting.append(failed)
            if len(self._waiting) == 1:
                self._changed.notify()

    def close(self) -> None:
        """End the thread. What is not stored stays uncommitted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        # It may be inside a call to Redis; the thread is a daemon, so nobody has to wait for that.
        self._thread.join(1.0)

    def _run(self) -> None:
        backoff = FIRST_BACKOFF_S
        while batch := self._next_batch():
            kept = self._store(batch)
            with self._changed:
                self._waiting.extendleft(reversed(kept))
            if not kept:
                backoff = FIRST_BACKOFF_S
                self._came_back()
            elif self._sleep(backoff):
                return
            else:
                backoff = min(2 * backoff, LAST_BACKOFF_S)

    def _next_batch(self) -> list[FailedRecord]:
        """The next failed records to store, after waiting for some; none when it is over."""
        batch: list[FailedRecord] = []
        size = 0
        with self._changed:
            while not batch:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if len(self._waiting) < BATCH_MESSAGES and not self._closed:
                    # Others follow at once, most often, and one call for many costs little more than for one.
                    self._changed.wait_for(lambda: self._closed, LINGER_S)
                if self._closed:
                    return []
                while self._waiting and len(batch) < BATCH_MESSAGES and size < BATCH_BYTES:
                    failed = self._waiting.popleft()
                    if failed.job.tracker.forgotten:
                        continue
                    batch.append(failed)
                    size += len(failed.message.value or b"")
        return batch

    def _sleep(self, seconds: float) -> bool:
        """Wait; True if it is over meanwhile."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not self._closed and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._closed

    def _store(self, batch: list[FailedRecord]) -> list[FailedRecord]:
        """Store them; returns those that are not stored."""
        try:
            self._installed.store([(failed.message, failed.due_ms) for failed in batch])
        except NotStoredError as error:
            self._went_down(error)
            return batch
        except Exception as error:
            if len(batch) == 1:
                # Not Redis, but this message: it is kept all the same, and holds up the commits of its partition.
                if not self._is_down:
                    logger.exception("%s cannot be stored", batch[0].message, extra={"event": "not_stored"})
                self._went_down(error)
                return batch
            kept = [failed for one in batch for failed in self._store([one])]
        else:
            kept = []
            self._offset_tracker.stored([(failed.job, failed.dead) for failed in batch])
            self._wake.set()
        return kept

    def _came_back(self) -> None:
        if self._is_down:
            self._is_down = False
            logger.warning("retries are stored again; fetching goes on", extra={"event": "store_up"})
            self._wake.set()

    def _went_down(self, error: Exception) -> None:
        if not self._is_down:
            self._is_down = True
            logger.error(
                "retries cannot be stored, fetching pauses until they can: %s", error, extra={"event": "store_down"}
            )
