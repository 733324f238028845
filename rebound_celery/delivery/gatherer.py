"""Gathers the deliveries that arrive together in a worker, and gives them to its pool as few jobs."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..no_thread import is_no_thread
from ..stopping import is_stopping
from .events import TaskEvents
from .job import Job, retries_of, still_held

#: How many messages make a job at most. Messages of a slow kind are all under way at once, so their jobs are smaller.
BATCH_SIZE = 250
_SLOW_BATCH_SIZE = 64

#: Seconds that messages are gathered where the pool has no event loop that says when a burst has ended.
_GATHER_S = 0.005

#: Seconds after which the pool is asked again to start a thread, where the system had none.
_NO_THREAD_S = 1.0

logger = logging.getLogger(__name__)


class Gatherer:
    """Gathers requests of the delivery task in one worker, and gives them to its pool.

    Args:
        task: the delivery task.
        consumer: the worker's consumer.
        events: tells those who watch.
    """

    def __init__(self, task: Any, consumer: Any, events: TaskEvents) -> None:
        self._task = task
        self._consumer = consumer
        self._events = events
        self._unannounced: list[Any] = []
        self._quick: deque[Any] = deque()
        self._slow: deque[Any] = deque()
        self._lock = threading.Lock()
        self._quick_jobs = 0
        self._slow_jobs = 0
        self._armed = False
        #: Whether jobs may wait in a threads pool that has no thread for them.
        self._lacks_thread = False

    def add(self, request: Any, is_slow: bool) -> None:
        """Take a request; it runs with those that arrive together with it."""
        with self._lock:
            self._unannounced.append(request)
        (self._slow if is_slow else self._quick).append(request)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._armed:
            self._armed = True
            hub = self._consumer.hub
            if hub is not None:
                # A timer without a delay runs in the same turn of the loop, right after the claim that hands over.
                hub.call_later(0, self.flush)
            else:
                self._consumer.timer.call_after(_GATHER_S, self.flush)

    def take_over(self, earlier: Gatherer) -> None:
        """Take the place of the gatherer of an earlier connection, with what it has not given to the pool yet.

        Its own timer may be gone with that connection, so nothing else would run these requests. Prefork, which is the
        pool with a semaphore, has dropped what it had not begun, and the broker delivers that again.
        """
        if earlier._lacks_thread:
            self._start_thread_soon()
        quick, slow = earlier.drain()
        if self._consumer.pool.uses_semaphore or not (quick or slow):
            return
        self._quick.extend(quick)
        self._slow.extend(slow)
        self._flush_soon()

    def drain(self) -> tuple[list[Any], list[Any]]:
        """Give away the quick and the slow requests that are not with the pool."""
        with self._lock:
            return _take(self._quick, len(self._quick)), _take(self._slow, len(self._slow))

    def flush(self) -> None:
        """Give what has been gathered to the pool, as far as the pool has use for more."""
        self._armed = False
        self._announce()
        while (job := self._next_job()) is not None:
            self._run(*job)

    def _announce(self) -> None:
        with self._lock:
            arrived, self._unannounced = self._unannounced, []
        if arrived:
            self._events.tell("task-received", map(_as_event, arrived))

    def _next_job(self) -> tuple[list[Any], int, Callable[[], None]] | None:
        if is_stopping():
            # What has not begun is given back when the worker's connection closes. Otherwise gevent and eventlet would
            # wait until all of it is delivered.
            return None
        processes = self._consumer.pool.num_processes
        # The threads of a threads pool call back too. The pool is not called under the lock, for it may block.
        with self._lock:
            # One job more than there are processes: each process finds its next job at once, and what arrives meanwhile
            # makes the job after it larger. Jobs that wait in the pool stay as small as they were.
            if self._quick and self._quick_jobs <= processes:
                self._quick_jobs += 1
                return _take(self._quick, BATCH_SIZE), 0, self._quick_job_ended
            # Where there are several processes, one stays free for quick messages.
            if self._slow and self._slow_jobs < max(1, processes - 1):
                self._slow_jobs += 1
                return _take(self._slow, _SLOW_BATCH_SIZE), 0, self._slow_job_ended
        return None

    def _quick_job_ended(self) -> None:
        with self._lock:
            self._quick_jobs -= 1
        self.flush()

    def _slow_job_ended(self) -> None:
        with self._lock:
            self._slow_jobs -= 1
        self.flush()

    def _run(self, requests: Sequence[Any], losses: int = 0, then: Callable[[], None] | None = None) -> None:
        live = still_held([request for request in requests if not request.revoked()])
        if not live:
            if then is not None:
                then()
            return
        job, pool = Job(self._task, live, losses, self._run, then, self._events), self._consumer.pool
        if pool.is_green:
            # gevent waits for a free greenlet of the pool. This may be the last one, whose job has just ended.
            threading.Thread(target=job.start, args=(pool,), name="rebound-job", daemon=True).start()
            return
        try:
            job.start(pool)
        except RuntimeError as error:
            if not is_no_thread(error):
                raise
            # The threads pool has queued the job all the same, but it starts threads only when it is given something.
            if not self._lacks_thread:
                logger.warning(
                    "the system gives this worker no thread for a job of %d deliveries; it waits for one",
                    len(live),
                    extra={"event": "no_thread"},
                )
            self._start_thread_soon()

    def _start_thread_soon(self) -> None:
        with self._lock:
            arms, self._lacks_thread = not self._lacks_thread, True
        if arms:
            self._consumer.timer.call_after(_NO_THREAD_S, self._start_thread)

    def _start_thread(self) -> None:
        """Let the pool start a thread, which runs all that is queued; try again later if it cannot."""
        if is_stopping():
            return
        try:
            self._consumer.pool.apply_async(_do_nothing, callback=_do_nothing)
            self._lacks_thread = False
        except RuntimeError as error:
            if not is_no_thread(error):
                raise
            self._consumer.timer.call_after(_NO_THREAD_S, self._start_thread)


def _do_nothing(*_: Any) -> None:
    """Have no work for a thread."""


def _as_event(request: Any) -> dict[str, Any]:
    return {
        "uuid": request.id,
        "name": request.name,
        "args": request.argsrepr,
        "kwargs": request.kwargsrepr,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "retries": retries_of(request),
        "eta": request.eta and request.eta.isoformat(),
        "expires": None,
    }


def _take(queue: deque[Any], count: int) -> list[Any]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]
