"""The errors of jobs that commands and pages tell plainly."""

from __future__ import annotations

from ..errors import InvalidSettingError

#: Action -> its name in a sentence.
_PAST = {"pause": "paused", "resume": "resumed", "abort": "aborted"}


class NoJobError(InvalidSettingError):
    """There is no job with this id, or not any more: a job is deleted a week after it has ended."""

    def __init__(self, job: str) -> None:
        text = "there is no job with this id. A job is deleted one week after it has ended"
        super().__init__("job", job, text)
        self.job = job

    def __reduce__(self) -> tuple[type, tuple[str]]:  # type: ignore[override]
        return type(self), (self.job,)


class JobStateError(InvalidSettingError):
    """The job cannot be paused, resumed or aborted in its state, which is in the text."""

    def __init__(self, job: str, state: str, action: str) -> None:
        super().__init__("job", job, f"it is {state}, and cannot be {_PAST[action]}")
        self.job = job
        self.state = state
        self.action = action

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.job, self.state, self.action)
