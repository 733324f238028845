"""What the Celery worker of this process is doing; a process that is no worker stops nothing and runs nothing."""

from __future__ import annotations

import sys


def is_stopping() -> bool:
    """Whether the worker was told to stop, warm or cold."""
    state = sys.modules.get("celery.worker.state")
    # Celery's own test (celery.worker.state.maybe_shutdown): the value is an exit code, and 0 means stop.
    return state is not None and any(
        told is not None and told is not False for told in (state.should_stop, state.should_terminate)
    )


def running_tasks() -> set[str]:
    """Ids of the tasks that this worker runs and will finish; none when it stops at once."""
    state = sys.modules.get("celery.worker.state")
    if state is None or state.should_terminate is not None:
        return set()
    return {request.id for request in list(state.active_requests)}
