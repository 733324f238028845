"""Tells what the Celery worker of this process is doing. In a process without a worker nothing runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any
from weakref import ref

from ...stopping import is_stopping

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
    tasks = _ids(state.active_requests)
    pool = None if _worker is None else getattr(_worker(), "pool", None)
    if pool is not None and not pool.uses_semaphore and not is_stopping():
        # At a lost connection only the prefork pool, the one with a semaphore, drops what it has not begun. Other pools
        # run everything they were given: the queue of a threads pool, a greenlet that has not started yet.
        tasks |= _ids(state.reserved_requests)
    return tasks


def _ids(requests: Iterable[Any]) -> set[str]:
    while True:
        try:
            return {request.id for request in requests}
        except RuntimeError:
            # A thread of the pool has begun or ended one meanwhile.
            continue
