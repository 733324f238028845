"""Tells whether this process is a Celery worker that was told to stop."""

from __future__ import annotations

import sys


def is_stopping() -> bool:
    """Whether the worker was told to stop, warm or cold. It is False in a process that is no worker."""
    state = sys.modules.get("celery.worker.state")
    if state is None:
        return False
    # Celery's own test (celery.worker.state.maybe_shutdown): the value is an exit code, and 0 means stop.
    stop, terminate = state.should_stop, state.should_terminate
    return not ((stop is None or stop is False) and (terminate is None or terminate is False))
