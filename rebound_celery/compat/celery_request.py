"""Counts a prefork child that dies under a task as a lost worker. For Celery 5.7 (`celery.worker.request.Request`).

Celery gives the message of such a task back (with `task_reject_on_worker_lost`) as if nothing had happened, so that a
task that kills its process runs for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.app.base import Celery
from celery.worker.request import Request as CeleryRequest

CELERYS_OWN = "celery.worker.request:Request"


class Request(CeleryRequest):
    """Tells the schedule when a message is given back because its worker was lost."""

    _worker_was_lost = False

    @staticmethod
    def count_loss(message: Any) -> None:
        """Called with kombu's message of a task whose worker was lost."""

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
        exception = getattr(exc_info.exception, "exc", exc_info.exception)
        # billiard reports a child that exits by itself with the exception that ended it.
        self._worker_was_lost = isinstance(exception, (WorkerLostError, SystemExit))
        return super().on_failure(exc_info, *args, **kwargs)

    def _announce_cancelled(self, emit_retry: bool = True) -> None:
        super()._announce_cancelled(emit_retry)
        # After a lost connection, by worker_cancel_long_running_tasks_on_connection_loss. Celery leaves the message to
        # its broker, but this worker would renew its lease for ever.
        # A cold shutdown announces no retry. Its message may be done: during a soft shutdown nobody reads the pool's
        # results. They are read afterwards, and then the channel gives back what is not acknowledged.
        if emit_retry:
            self.reject(requeue=True)

    def reject(self, requeue: bool = False) -> None:
        if requeue and self._worker_was_lost:
            self.count_loss(self.message)
        super().reject(requeue=requeue)


def use_request(app: Celery, count_loss: Callable[[Any], None]) -> None:
    """Use this class for the tasks of this worker, except for those that have a request class of their own."""
    Request.count_loss = staticmethod(count_loss)  # type: ignore[assignment]
    for task in (app.Task, *app.tasks.values()):
        if task.Request == CELERYS_OWN:
            task.Request = Request
