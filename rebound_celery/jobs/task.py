"""The Celery task that makes the steps of jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.exceptions import Reject, SoftTimeLimitExceeded

from ..durable_task import DurableTask
from ..errors import UnreachableError
from .step import TASK_NAME


class JobTask(DurableTask):
    """Makes one step of a job. If the worker is lost, another one makes the step again."""

    name = TASK_NAME
    ignore_result = True
    rate_limit = None

    #: Set where the task is registered.
    run_step: Callable[[str], None]

    @classmethod
    def annotate(cls) -> None:
        """Apply the app's `task_annotations`, save for what must not change."""
        super().annotate()
        for name in ("ignore_result", "rate_limit"):
            setattr(cls, name, getattr(JobTask, name))

    def run(self, job: str) -> None:
        """Make a step of this job."""
        try:
            self.run_step(job)
        except (UnreachableError, SoftTimeLimitExceeded) as error:
            # What Redis has is in place, and the step comes again.
            raise Reject(error, requeue=True) from error


def register_task(app: Any, run_step: Callable[[str], None]) -> None:
    """Add the task to an app."""

    class Step(JobTask):
        """Rebound's task for jobs, bound to this app."""

    Step.run_step = staticmethod(run_step)
    app.register_task(Step())
