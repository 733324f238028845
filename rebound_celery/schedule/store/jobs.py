"""The jobs of a queue: what each is to do, its state and progress, and the message that lets a worker go on with it.

What a job is to do and how far it is are bytes of the owner's. The schedule keeps the state. As long as a job runs, its
message waits or is leased, so that a worker makes the next step, also after another one was lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from . import envelope
from .envelope import from_id, to_id
from .keys import QueueKeys
from .script_runner import MAX_SLEEP_MS, Call, run_script

#: What the names of a job's counters begin with in Redis.
_COUNTER = b"n:"


class StepOverError(Exception):
    """A step of a job can change nothing any more: the job was paused or ended, or another step has begun."""


class StepMessage(NamedTuple):
    """The message that lets a worker make a step of a job.

    Attributes:
        id: its id; always the same for one job.
        stored: its stored form.
        lane, priority: where it waits; the same for one job.
    """

    id: str
    stored: bytes
    lane: str
    priority: int


class JobClaim(NamedTuple):
    """A step of a job that stores messages in the places of dead letters.

    Attributes:
        id: the job's id.
        token: the token of the step.
        underway: what the job is to remember of messages that are on their way.
    """

    id: str
    token: str
    underway: bytes = b""


class JobRow(msgspec.Struct, frozen=True, kw_only=True):
    """A job; times are Unix milliseconds.

    Attributes:
        id: its id.
        state: "running", "paused", "done", "failed" or "aborted".
        spec: what it is to do.
        progress: how far it is, as its last step has told.
        underway: what it remembers of messages that are on their way.
        counts: its counters.
        created_ms, changed_ms, ended_ms: when it was started, when it last changed, and when it ended.
        expires_ms: when it is forgotten.
        has_step: whether a worker makes the next step by itself.
    """

    id: str
    state: str
    spec: bytes
    progress: bytes
    underway: bytes
    counts: Mapping[str, int]
    created_ms: int
    changed_ms: int
    ended_ms: int | None
    expires_ms: int | None
    has_step: bool


class Changed(NamedTuple):
    """What became of a change of a job.

    Attributes:
        before: the job's state before; the empty text if there is no such job.
        is_changed: whether it was changed.
    """

    before: str
    is_changed: bool


class StoredJobs:
    """The jobs of one queue; `schedule.port.Jobs` says what its methods do.

    Args:
        client: a redis-py client that adds no prefix and decodes nothing.
        keys: the queue's keys.
    """

    def __init__(self, client: Any, keys: QueueKeys) -> None:
        self._client = client
        self._keys = keys

    def add(self, job: str, spec: bytes, step: StepMessage) -> bool:
        return self._run(job, step, "add", spec).is_changed

    def take(self, job: str, token: str, step: StepMessage) -> JobRow | None:
        return self.get(job, step.id) if self._run(job, step, "take", token).is_changed else None

    def save(
        self,
        claim: JobClaim,
        progress: bytes,
        step: StepMessage,
        *,
        again_ms: int | None = None,
        counts: Mapping[str, int] | None = None,
    ) -> None:
        values = [value for pair in (counts or {}).items() for value in pair]
        again = -1 if again_ms is None else again_ms
        if not self._run(claim.id, step, "save", claim.token, progress, claim.underway, again, *values).is_changed:
            raise StepOverError

    def end(self, claim: JobClaim, progress: bytes, step: StepMessage, state: str, keep_ms: int) -> None:
        if not self._run(claim.id, step, "end", claim.token, progress, state, keep_ms).is_changed:
            raise StepOverError

    def change(self, job: str, what: str, step: StepMessage, keep_ms: int) -> Changed:
        return self._run(job, step, what, keep_ms)

    def get(self, job: str, step_id: str) -> JobRow | None:
        return self._read([(job, step_id)])[0]

    def page(self, step_id: Callable[[str], str], after: str | None = None, count: int = 100) -> list[JobRow]:
        found: list[JobRow] = []
        start = 0
        if after is not None:
            rank = self._client.zrevrank(self._keys.jobs, to_id(after))
            if rank is None:
                return []
            start = rank + 1
        while len(found) < count:
            names = self._client.zrevrange(self._keys.jobs, start, start + count - len(found) - 1)
            if not names:
                break
            rows = self._read([(name, step_id(name)) for name in map(from_id, names)])
            gone = [name for name, row in zip(names, rows, strict=True) if row is None]
            if gone:
                # They have expired.
                self._client.zrem(self._keys.jobs, *gone)
            found += filter(None, rows)
            start += len(names) - len(gone)
        return found

    def _run(self, job: str, step: StepMessage, what: str, *more: Any) -> Changed:
        keys = self._keys
        reference = f"{keys.rank_of(step.priority)}{step.lane}"
        touched = [keys.job(job), keys.jobs, keys.messages, keys.leased, keys.leases, keys.limits, keys.next, keys.wake]
        touched += [keys.stats, *keys.of_lanes([reference])]
        message = envelope.head(reference) + step.stored
        arguments = [MAX_SLEEP_MS, to_id(job), to_id(step.id), reference, message, what, *more]
        _, ((before, is_changed),) = run_script(self._client, "job", [Call(touched, arguments)])
        return Changed(before.decode(), bool(is_changed))

    def _read(self, jobs: Sequence[tuple[str, str]]) -> list[JobRow | None]:
        # In one step: between two, a worker could store the message that is asked for.
        with self._client.pipeline(transaction=True) as pipe:
            for job, step_id in jobs:
                pipe.hgetall(self._keys.job(job))
                pipe.hexists(self._keys.messages, to_id(step_id))
            answers = pipe.execute()
        return [
            _row(job, row, has_step=has_step)
            for (job, _), row, has_step in zip(jobs, answers[::2], answers[1::2], strict=True)
        ]


def _row(job: str, row: Mapping[bytes, bytes], *, has_step: bool) -> JobRow | None:
    if b"state" not in row:
        return None
    ended, expires = row.get(b"ended"), row.get(b"expires")
    return JobRow(
        id=job,
        state=row[b"state"].decode(),
        spec=row[b"spec"],
        progress=row.get(b"progress", b""),
        underway=row.get(b"underway", b""),
        counts={name[len(_COUNTER) :].decode(): int(row[name]) for name in row if name.startswith(_COUNTER)},
        created_ms=int(row[b"created"]),
        changed_ms=int(row[b"changed"]),
        ended_ms=None if ended is None else int(ended),
        expires_ms=None if expires is None else int(expires),
        has_step=has_step,
    )
