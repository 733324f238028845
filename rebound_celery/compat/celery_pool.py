"""Tells which tasks the children of the prefork pool have got. For Celery 5.7 (`celery.concurrency.asynpool`).

A child says that it has begun a task, and the worker hears of it a moment later. In that moment Celery takes the task
for one that waits: it forgets the task when it stops or loses its connection, so that another worker gets the message.
The child runs it all the same.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial
from inspect import isgenerator
from typing import Any

from ..clock import SYSTEM_CLOCK, Clock

#: Seconds that an idle child may take to begin a task that it has got.
BEGINS_WITHIN_S = 5.0


def await_begun_before_flush(pool: Any) -> None:
    """Let a pool await what its children have got before it forgets what has not begun. For a pool that is started."""
    if pool.flush is not None:
        pool.flush = partial(_flush, pool, pool.flush)


def _flush(pool: Any, celerys_own: Callable[[], None]) -> None:
    await_begun(pool)
    celerys_own()


def await_begun(pool: Any, patience_s: float = BEGINS_WITHIN_S, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Hear from the children that they have begun what they have got, in the thread of the worker's loop.

    Nothing is expected of a child that is busy, as with `-O fast`, where children get tasks in advance.
    """
    give_up_at = clock.monotonic() + patience_s
    while (left_s := give_up_at - clock.monotonic()) > 0:
        pipes = {job._write_to.outqR_fd for job in _sent(pool)} - {child.outqR_fd for child in _busy(pool)}
        if not pipes:
            return
        for pipe in select.select(list(pipes), (), (), left_s)[0]:
            _read(pool._pool, pipe)


def _jobs(pool: Any) -> list[Any]:
    return list(getattr(getattr(pool, "_pool", None), "_cache", {}).values())


def _sent(pool: Any) -> list[Any]:
    """The pool's jobs that were wholly written to a child that lives, and have not been heard to begin."""
    return [
        job
        for job in _jobs(pool)
        if not job._accepted
        and not job.ready()
        and (child := job._write_to) is not None
        and child._is_alive()
        and job._writer() not in pool._pool._active_writers
    ]


def _busy(pool: Any) -> list[Any]:
    return [job._write_to for job in _jobs(pool) if job._accepted and not job.ready() and job._write_to is not None]


def _read(pool: Any, pipe: int) -> None:
    """Do what Celery's hub does for a pipe that can be read. After an error it has been reset, and knows no pipe."""
    hub = pool._result_handler._hub
    callback, arguments = hub.readers.get(pipe, (pool.handle_result_event, (pipe,)))
    try:
        next(callback) if isgenerator(callback) else callback(*arguments)
    except StopIteration:
        pass
    except (OSError, EOFError):
        hub.remove_reader(pipe)
