"""The message that lets a worker make a step of a job."""

from __future__ import annotations

from typing import Any

from ..delivery.lanes import STEPS
from ..schedule.port import StepMessage, stored_task

TASK_NAME = "rebound.job"

#: The lane of all steps. A claim takes lanes in turn, so that they come neither before all deliveries nor after them.
STEP_LANE = STEPS

#: The priority of ordinary deliveries, as kombu counts it.
_PRIORITY = 3

_ID = "rebound-job-"


def step_id(job: str) -> str:
    """The id of the Celery task that makes the steps of a job."""
    return f"{_ID}{job}"


def job_of_step(task_id: str) -> str:
    """The job whose steps a Celery task makes."""
    return task_id.removeprefix(_ID)


def step_of(app: Any, queue: str, job: str) -> StepMessage:
    """The message for the steps of a job."""
    identity = step_id(job)
    stored = stored_task(app, queue, TASK_NAME, identity, (job,), _PRIORITY)
    return StepMessage(identity, stored, STEP_LANE, _PRIORITY)
