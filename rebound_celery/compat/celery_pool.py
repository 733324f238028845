"""Keeps the tasks that the children of the prefork pool have got. For Celery 5.7 (`celery.concurrency.asynpool`).

A child says that it has begun a task, and the worker hears of it a moment later. In that moment Celery takes the task
for one that waits: it forgets the task when it stops or loses its connection, so that another worker gets the message.
The child runs it all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakSet

from billiard.pool import RUN

#: Jobs whose messages stay with this worker, whatever becomes of its connection.
_promised: WeakSet[Any] = WeakSet()


def tasks_of_children(pool: Any) -> set[str]:
    """Ids of the tasks that children have got, and have not been heard to begin. The pool keeps them from now on."""
    jobs = _jobs_of_children(pool)
    _promised.update(jobs)
    return {job.correlation_id for job in jobs}


def keep_at_flush(pool: Any) -> None:
    """Let a pool that is started keep what its children have got, when it forgets what has not begun.

    Only the prefork pool, the one with a semaphore, has children.
    """
    if pool.uses_semaphore and pool.flush is not None:
        pool.flush = partial(_flush, pool, pool.flush)


def _flush(pool: Any, celerys_own: Callable[[], None]) -> None:
    asyn_pool = pool._pool
    kept = _jobs_of_children(pool)
    # The children of these have ended without them.
    to_send_again = [job for job in asyn_pool.outbound_buffer if job in _promised and not job._accepted]
    if asyn_pool._state != RUN:
        # At a stop nothing is sent any more. The worker gives the messages back at its end.
        asyn_pool._put_back = _discard
        to_send_again = []
    for job in kept:
        _write_rest(asyn_pool, job)
    for job in (*kept, *to_send_again):
        job.discard = _nothing
    try:
        celerys_own()
    finally:
        for job in (*kept, *to_send_again):
            vars(job).pop("discard", None)
        asyn_pool.outbound_buffer.extend(to_send_again)


def _write_rest(asyn_pool: Any, job: Any) -> None:
    """A child that has got a part of a job waits for the rest. At a stop, Celery writes no more of it."""
    writer = job._writer()
    if writer is not None and writer in asyn_pool._active_writers:
        asyn_pool._flush_writer(job._write_to, writer)


def _discard(job: Any) -> None:
    job.discard()


def _nothing() -> None:
    """Takes the place of the method `discard`, with which a job leaves the pool."""


def _jobs(pool: Any) -> list[Any]:
    return list(getattr(getattr(pool, "_pool", None), "_cache", {}).values())


def _jobs_of_children(pool: Any) -> list[Any]:
    """The jobs that were written to a child, wholly or in part, and have not been heard to begin."""
    return [
        job
        for job in _jobs(pool)
        if not job._accepted and job._write_to is not None and job not in pool._pool.outbound_buffer
    ]
