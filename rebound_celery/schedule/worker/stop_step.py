"""A step of the Celery worker that hears of every stop."""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from ...compat.celery_pool import keep_at_flush
from ...stopping import forget_stop, share_with_children, tell_children


class StopStep(bootsteps.StartStopStep):
    """Tells the pool's processes that the worker stops, and lets the pool keep what they have got.

    The signal `worker_shutting_down` tells of SIGTERM and the like, and comes earlier. `celery control shutdown` and
    `worker.stop()` send no signal before the pool has ended.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        # All steps are made before the first of them, and so the pool, is started.
        share_with_children()

    def start(self, worker: Any) -> None:
        """The worker's pool has started."""
        keep_at_flush(worker.pool)

    def close(self, _worker: Any) -> None:
        """The worker is about to stop its parts."""
        tell_children()

    def terminate(self, _worker: Any) -> None:
        """The worker ends at once, and sends no `worker_shutdown`."""
        forget_stop()
