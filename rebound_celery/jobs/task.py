"""The Celery task that makes the steps of jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Task
from celery.exceptions import Reject

from ..errors import UnreachableError
from .step import TASK_NAME

#: What no setting of the app's may change in this task.
_PROMISED = ("acks_late", "reject_on_worker_lost", "ignore_result", "expires", "rate_limit")


class JobTask(Task):
    """Makes one step of a job. Its message stays under a lease meanwhile, so that another worker makes it again after a
    loss."""

    name = TASK_NAME
    acks_late = True
    reject_on_worker_lost = True
    ignore_result = True
    expires = None
    rate_limit = None

    #: Set where the task is registered.
    run_step: Callable[[str], None]

    @classmethod
    def annotate(cls) -> None:
        """Apply the app's `task_annotations`, save for what the promise rests on."""
        super().annotate()
        for name in _PROMISED:
            setattr(cls, name, getattr(JobTask, name))

    def run(self, job: str) -> None:
        """Make a step of this job."""
        try:
            self.run_step(job)
        except UnreachableError as error:
            # Redis is away. What it has is in place; the step comes again.
            raise Reject(error, requeue=True) from error


def register_task(app: Any, run_step: Callable[[str], None]) -> None:
    """Add the task to an app."""

    class Step(JobTask):
        """Rebound's task for jobs, bound to this app."""

    Step.run_step = staticmethod(run_step)
    app.register_task(Step())
