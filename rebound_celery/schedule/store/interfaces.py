"""Parts of the schedule's Protocol: its dead letters, the health of endpoints, and its jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from .health import Health, HealthReport
from .jobs import Changed, JobClaim, JobRow, StepMessage
from .values import DeadEntry, DeadPage, Position, Revival


class DeadLetterSchedule(Protocol):
    """What a schedule does with dead letters."""

    def keep_dead(self, letters: Sequence[DeadEntry]) -> None:
        """Keep dead letters. An id that is kept already gets the new letter."""

    def dead(self, after: Position | None = None, count: int = 100) -> DeadPage:
        """Dead letters by the time of their death, the oldest first."""

    def dead_letter(self, id: str) -> DeadEntry | None:  # noqa: A002 - the field's own word
        """The dead letter with this id, or None."""

    def remove_dead(self, *ids: str) -> int:
        """Remove dead letters; returns how many there were."""

    def revive(self, revivals: Sequence[Revival], *, again: bool = False, claim: JobClaim | None = None) -> list[bool]:
        """Store messages in the places of dead letters, each in one step; returns which were stored; see `Revival`.

        With `claim`, the counters of that job are changed in the same step; and `again` stores what was stored before,
        but not what that job has stored.

        Raises:
            StepOverError: if the step of the job is over. Nothing is stored then, of at most 500 revivals.
        """

    def expire_dead(self, age_ms: int, most: int = 1000) -> int:
        """Remove dead letters that are older than `age_ms`, the oldest first and at most `most`; returns how many."""


class HealthSchedule(Protocol):
    """What a schedule does with the health of HTTP endpoints."""

    def report_health(self, reports: Sequence[HealthReport]) -> list[Health]:
        """Tell what endpoints answered, each once; returns the health of each. Success ends a series of failures."""

    def health(self, names: Sequence[str]) -> list[Health]:
        """The health of these endpoints."""

    def unhealthy(self) -> Mapping[str, Health]:
        """The endpoints that fail or are disabled."""

    def clear_health(self, name: str) -> bool:
        """Forget an endpoint's failures, and that it is disabled; returns whether there was anything."""


class Jobs(Protocol):
    """The jobs of a queue: work that workers do in steps.

    While a job is "running", its message (`StepMessage`) waits or is leased, and whoever receives it makes a step:
    `take`, some work, `save` or `end`. Each change of a job and of its message is one change.
    """

    def add(self, job: str, spec: bytes, step: StepMessage) -> bool:
        """Start a job; its first step is due now. False if there is another one with this id."""

    def take(self, job: str, token: str, step: StepMessage) -> JobRow | None:
        """Begin a step, which `token` names; a step before it can change nothing any more. None: it does not run."""

    def save(
        self,
        claim: JobClaim,
        progress: bytes,
        step: StepMessage,
        *,
        again_ms: int | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Keep how far a step is, and set these counters.

        Args:
            claim: the step, and what is on its way.
            progress: how far the job is.
            step: the job's message.
            again_ms: the step ends, and the next one is due in so many milliseconds; None: it goes on.
            counts: counter -> its value.

        Raises:
            StepOverError: if the step is over. Nothing is changed then.
        """

    def end(self, claim: JobClaim, progress: bytes, step: StepMessage, state: str, keep_ms: int) -> None:
        """End a job in the state "done" or "failed"; it is forgotten after `keep_ms`.

        Raises:
            StepOverError: if the step is over. Nothing is changed then.
        """

    def change(self, job: str, what: str, step: StepMessage, keep_ms: int) -> Changed:
        """Change a job by hand.

        Args:
            job: its id.
            what: "pause" (it runs), "resume" (it is paused, has failed, or runs without a message) or "abort" (it runs
                or is paused). In another state nothing is changed.
            step: its message.
            keep_ms: for how long an aborted job is kept.
        """

    def get(self, job: str, step_id: str) -> JobRow | None:
        """The job with this id, whose message has that id; None if there is none, or no more."""

    def page(self, step_id: Callable[[str], str], after: str | None = None, count: int = 100) -> list[JobRow]:
        """Jobs, the last one that was started first, behind the job `after`; none if there is no such job.

        `step_id` gives the ids of messages.
        """
