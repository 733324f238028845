"""Tells whether this process is a Celery worker that was told to stop, or one of its pool's processes."""

from __future__ import annotations

import mmap
import sys
from typing import Any

#: One byte that a worker has in common with the processes that it forks. The signal to stop does not reach those.
_shared: mmap.mmap | None = None


def share_with_children() -> None:
    """Let the processes that a worker will fork hear that it was told to stop."""
    global _shared
    _shared = mmap.mmap(-1, 1)


def tell_children(**_: Any) -> None:
    """Tell them, and this process (a receiver of `worker_shutting_down`)."""
    if _shared is not None:
        _shared[0] = 1


def forget_stop(**_: Any) -> None:
    """The worker has ended; its process may go on, and start another (a receiver of `worker_shutdown`)."""
    if _shared is not None:
        _shared[0] = 0


def is_stopping() -> bool:
    """Whether the worker was told to stop, warm or cold. It is False in a process that is no worker."""
    if _shared is not None and _shared[0]:
        return True
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return False
    # As in celery.worker.state.maybe_shutdown: the value may be an exit code, so 0 also means stop.
    stop, terminate = state.should_stop, state.should_terminate
    return not ((stop is None or stop is False) and (terminate is None or terminate is False))
