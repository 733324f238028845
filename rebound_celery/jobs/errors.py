"""The errors of jobs that commands and pages tell plainly."""

from __future__ import annotations

from ..errors import InvalidSettingError


class NoJobError(InvalidSettingError):
    """There is no job with this id, or no more: jobs that have ended are forgotten after a week."""

    def __init__(self, job: str) -> None:
        text = "there is no job with this id: it was forgotten a week after its end, or was never there"
        super().__init__("job", job, text)
        self.job = job

    def __reduce__(self) -> tuple[type, tuple[str]]:  # type: ignore[override]
        return type(self), (self.job,)


class JobStateError(InvalidSettingError):
    """This cannot be done with the job as it is. The text says why."""

    def __init__(self, job: str, state: str, action: str) -> None:
        super().__init__("job", job, f"it is {state}, so there is nothing to {action}")
        self.job = job
        self.state = state
        self.action = action

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.job, self.state, self.action)
