"""Finds out whether this process is a Celery worker that is stopping."""

from __future__ import annotations

import sys


def is_stopping() -> bool:
    """Return whether the worker has to stop, warm or cold. It is False in a process that is not a worker."""
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return False
    # As in celery.worker.state.maybe_shutdown: the value may be an exit code, so 0 also means stop.
    stop, terminate = state.should_stop, state.should_terminate
    return not ((stop is None or stop is False) and (terminate is None or terminate is False))
