"""The jobs of the schedule in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec.structs import replace

from ..clock import Clock
from ..schedule.port import Changed, Entry, JobClaim, JobRow, StepMessage, StepOverError, Waiting


class MemoryJobs:
    """Jobs in memory, with the methods of `schedule.port.Jobs`. A job that has ended is kept until the test ends.

    Args:
        clock: tells the time.
        get: gives the message with an id.
        enqueue: stores messages.
        cancel: removes a message.
    """

    def __init__(
        self,
        clock: Clock,
        get: Callable[[str], Waiting | None],
        enqueue: Callable[[Iterable[Entry]], object],
        cancel: Callable[[str], object],
    ) -> None:
        self._clock = clock
        self._message = get
        self._enqueue = enqueue
        self._cancel = cancel
        self._rows: dict[str, JobRow] = {}
        self._tokens: dict[str, str] = {}

    def add(self, job: str, spec: bytes, step: StepMessage) -> bool:
        if (row := self._rows.get(job)) is not None:
            return row.spec == spec
        now_ms = self._clock.now_ms()
        self._rows[job] = JobRow(
            id=job,
            state="running",
            spec=spec,
            progress=b"",
            underway=b"",
            counts={},
            created_ms=now_ms,
            changed_ms=now_ms,
            ended_ms=None,
            expires_ms=None,
            has_step=True,
        )
        self._put(step, 0)
        return True

    def take(self, job: str, token: str, step: StepMessage) -> JobRow | None:
        row = self.get(job, step.id)
        if row is None or row.state != "running":
            return None
        self._tokens[job] = token
        return row

    def save(
        self,
        claim: JobClaim,
        progress: bytes,
        step: StepMessage,
        *,
        again_ms: int | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        row = self.check(claim)
        self._set(row, progress=progress, underway=claim.underway, counts={**row.counts, **(counts or {})})
        if again_ms is not None:
            self._put(step, again_ms)

    def end(self, claim: JobClaim, progress: bytes, step: StepMessage, state: str, keep_ms: int) -> None:  # noqa: ARG002
        row = self.check(claim)
        self._finish(replace(row, progress=progress, underway=b""), state, keep_ms)

    def change(self, job: str, what: str, step: StepMessage, keep_ms: int) -> Changed:
        row = self.get(job, step.id)
        if row is None:
            return Changed("", is_changed=False)
        is_running = row.state == "running"
        is_stopped = row.state in ("paused", "failed") or (is_running and not row.has_step)
        if what == "pause" and is_running:
            self._set(row, state="paused")
            self._cancel(step.id)
        elif what == "resume" and is_stopped:
            self._set(row, state="running", ended_ms=None, expires_ms=None)
            self._tokens.pop(job, None)
            self._put(step, 0)
        elif what == "abort" and (is_running or row.state == "paused"):
            self._finish(row, "aborted", keep_ms)
            self._cancel(step.id)
        else:
            return Changed(row.state, is_changed=False)
        return Changed(row.state, is_changed=True)

    def get(self, job: str, step_id: str) -> JobRow | None:
        row = self._rows.get(job)
        return None if row is None else replace(row, has_step=self._message(step_id) is not None)

    def page(self, step_id: Callable[[str], str], after: str | None = None, count: int = 100) -> list[JobRow]:
        names = sorted(self._rows, key=lambda name: (self._rows[name].created_ms, name), reverse=True)
        if after is not None and after not in names:
            return []
        start = 0 if after is None else names.index(after) + 1
        return [row for name in names[start : start + count] if (row := self.get(name, step_id(name))) is not None]

    def check(self, claim: JobClaim) -> JobRow:
        """Return the job of a step.

        Raises:
            StepOverError: if the step is over.
        """
        row = self._rows.get(claim.id)
        if row is None or row.state != "running" or self._tokens.get(claim.id) != claim.token:
            raise StepOverError
        return row

    def count(self, claim: JobClaim, counter: str) -> None:
        """Count a message that a step has stored."""
        row = self.check(claim)
        counts = {**row.counts, counter: row.counts.get(counter, 0) + 1}
        self._set(row, underway=claim.underway, counts=counts)

    def _finish(self, row: JobRow, state: str, keep_ms: int) -> None:
        now_ms = self._clock.now_ms()
        self._set(row, state=state, ended_ms=now_ms, expires_ms=now_ms + keep_ms)

    def _set(self, row: JobRow, **changes: object) -> None:
        self._rows[row.id] = replace(row, changed_ms=self._clock.now_ms(), **changes)

    def _put(self, step: StepMessage, delay_ms: int) -> None:
        self._enqueue([Entry(step.id, self._clock.now_ms() + delay_ms, step.stored, step.lane, step.priority)])
