"""Replays of dead letters as jobs of the workers."""

from __future__ import annotations

from .errors import JobStateError, NoJobError
from .job import Job, JobPage
from .jobs import Jobs
from .step import STEP_LANE, job_of_step

__all__ = ["STEP_LANE", "Job", "JobPage", "JobStateError", "Jobs", "NoJobError", "job_of_step"]
