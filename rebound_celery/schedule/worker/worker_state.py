"""Tells what the Celery worker of this process is doing. In a process without a worker nothing runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any
from weakref import ref

from ...compat.celery_pool import tasks_of_children
from ...stopping import is_stopping
from ..transport.installed import Load

_worker: ref[Any] | None = None


def remember(worker: Any) -> None:
    """This is the process's worker: its pool decides what becomes of the tasks that wait in it."""
    global _worker
    _worker = ref(worker)


def has_work(consumer: Any) -> bool:
    """Whether this worker holds tasks: running, waiting for the pool, for their time, or for a rate limit."""
    state = sys.modules.get("celery.worker.state")
    if state is not None and (state.requests or state.scheduled_requests):
        return True
    return any(bucket.contents for bucket in list(consumer.task_buckets.values()) if bucket is not None)


def tasks_to_finish() -> set[str]:
    """Ids of the tasks that this worker runs, or will run, whatever becomes of its connection.

    None when it stops at once. When it stops warm, what has not begun is left to others.
    """
    state = sys.modules.get("celery.worker.state")
    if state is None or state.should_terminate is not None:
        return set()
    pool = None if _worker is None else getattr(_worker(), "pool", None)  # of celery: it has none yet while it starts
    if pool is None or is_stopping():
        return _ids(state.active_requests)
    if pool.uses_semaphore:
        # At a lost connection only the prefork pool, the one with a semaphore, drops what it has not begun.
        return tasks_of_children(pool) | _ids(state.active_requests)
    # Other pools run everything they were given: the queue of a threads pool, a greenlet that has not started yet.
    return _ids(state.active_requests) | _ids(state.reserved_requests)


class ThisWorker:
    """See `transport.installed.Worker`."""

    def is_there(self) -> bool:
        return _worker is not None and _worker() is not None

    def owns(self, channel: Any) -> bool:
        consumer = self._consumer()
        task_consumer = None if consumer is None else consumer.task_consumer
        return task_consumer is not None and task_consumer.channel is channel

    def load(self, channel: Any) -> Load | None:
        state = sys.modules.get("celery.worker.state")
        consumer = self._consumer()
        if state is None or consumer is None or not self.owns(channel):
            return None
        scales_to = getattr(consumer.controller, "max_concurrency", None)  # of celery: None without autoscale
        size = int(scales_to or consumer.pool.num_processes or 1)
        return Load(size, len(state.reserved_requests), state.all_total_count[0])

    def tasks_to_finish(self) -> set[str]:
        return tasks_to_finish()

    @staticmethod
    def _consumer() -> Any:
        worker = None if _worker is None else _worker()
        return getattr(worker, "consumer", None)  # of celery: it has none yet while it starts


def _ids(requests: Iterable[Any]) -> set[str]:
    while True:
        try:
            return {request.id for request in requests}
        except RuntimeError:
            # A thread of the pool has begun or ended one meanwhile.
            continue
