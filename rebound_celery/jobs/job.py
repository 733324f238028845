"""A job: what it is to do, how far it is, and what operators see of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from ..errors import UnknownVersionError, WireFormatError
from ..message.address import ADDRESS_FIELDS, Address, parse_address, policy_names
from ..message.encryption import KeyRing
from ..schedule.port import JobRow
from ..selection import FILTER_FIELDS, Filter

RUNNING, PAUSED, DONE, FAILED, ABORTED = "running", "paused", "done", "failed", "aborted"

#: A job that should run, and for which no worker makes a step by itself: its task was cancelled or revoked, or became a
#: dead letter because its workers were lost too often.
STALLED = "stalled"

#: The counters that the schedule keeps.
REPLAYED, PARKED = "replayed", "parked"


#: The version of `Spec`. A later version of this package counts it up where a worker of this one would do something
#: else than was asked for, such as leave out an option.
VERSION = 1


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What a job is to do, as it is stored. A later version adds fields, and changes or removes none.

    Attributes:
        version: see `VERSION`.
        id: the job's id.
        source, filter, limit, rate, dry_run, again, max_replays: see `Jobs.start`; the filter as `Filter.to_dict` has
            it.
        target: the destination as `Address.to_wire` has it.
        total: how many letters there were when it was started.
        until_ms, ends: see `Extent`.
    """

    id: str
    source: str
    version: int = VERSION
    filter: Mapping[str, Any] = {}
    target: Mapping[str, Any] | None = None
    limit: int | None = None
    rate: float | None = None
    dry_run: bool = False
    again: bool = False
    max_replays: int = 3
    total: int = 0
    until_ms: int | None = None
    ends: Mapping[int, int] | None = None

    @property
    def address(self) -> Address | None:
        return None if self.target is None else parse_address(self.target, field="target")

    def read_filter(self) -> Filter:
        return Filter.parse(self.filter, 0)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job is, as its last step has stored it.

    A worker of an earlier version leaves out the fields that it does not know. So the default of a new field must be
    right then, or the job needs a new `VERSION`.

    Attributes:
        position: where the next step begins; None means at the beginning.
        read, matched, left: how many letters are before it, fit, and cannot be replayed.
        problems: why, for the first of these.
        error: what the last step met; None if all went well.
        errors: how many steps in a row met one.
        idle: how many steps in a row stored nothing, because letters waited for earlier ones.
        next_ms: see `RateLimit`.
    """

    position: str | None = None
    read: int = 0
    matched: int = 0
    left: int = 0
    problems: tuple[str, ...] = ()
    error: str | None = None
    errors: int = 0
    idle: int = 0
    next_ms: int = 0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A replay that workers make. Times are Unix milliseconds.

    Attributes:
        id: its id.
        state: "running", "paused", "done", "failed", "aborted", or "stalled": no worker makes its next step by itself.
        source, filter, target, limit, rate, dry_run, again, max_replays: see `Jobs.start`. The target is without user,
            password and query. The source and the filter are None if the job cannot be read.
        created_ms, changed_ms, ended_ms: when it was started, when it last changed, and when it ended.
        expires_ms: when it is forgotten; None as long as it has not ended.
        total: how many letters there were when it was started; for a topic an upper bound.
        read, matched, replayed, parked, repeated, left, problems: see `ReplayResult`. While it runs, `replayed` and
            `parked` are exact, and the others lag behind.
        error: why it has failed, what it waits for, or why it cannot be read.
    """

    id: str
    state: str
    source: str | None
    filter: Mapping[str, Any] | None
    target: str | None
    limit: int | None
    rate: float | None
    dry_run: bool
    again: bool
    max_replays: int
    created_ms: int
    changed_ms: int
    ended_ms: int | None
    expires_ms: int | None
    total: int
    read: int
    matched: int
    replayed: int
    parked: int
    repeated: int
    left: int
    problems: tuple[str, ...]
    error: str | None

    @property
    def has_ended(self) -> bool:
        """Whether nothing more comes of it by itself."""
        return self.state in (DONE, FAILED, ABORTED)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, with stable keys."""
        return {"action": "replay", **msgspec.to_builtins(self)}


class JobPage(msgspec.Struct, frozen=True):
    """A part of the jobs.

    Attributes:
        entries: the jobs, the last one that was started first.
        next: give this as `after` to read on; None where nothing follows.
    """

    entries: list[Job]
    next: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"entries": [entry.to_dict() for entry in self.entries], "next": self.next}


_Stored = TypeVar("_Stored", Spec, Progress)


def seal(value: Spec | Progress, keys: KeyRing) -> bytes:
    """The stored form of a part of a job."""
    return keys.seal(msgspec.msgpack.encode(value))


def read_spec(row: JobRow, keys: KeyRing) -> Spec:
    """Read what a job is to do.

    Raises:
        UnknownVersionError: if a later version wrote it, or none of the keys opens it.
        WireFormatError: if it is damaged.
    """
    spec = _read(row, row.spec, Spec, keys)
    unknown = {*spec.filter} - {*FILTER_FIELDS} | {*(spec.target or ())} - ADDRESS_FIELDS
    if spec.version > VERSION or unknown:
        # Without an option that it does not know, a worker would replay other letters than were meant.
        raise UnknownVersionError(f"the job {row.id}")
    return spec


def read_progress(row: JobRow, keys: KeyRing) -> Progress:
    """Read how far a job is; raises what `read_spec` raises."""
    return _read(row, row.progress, Progress, keys) if row.progress else Progress()


def _read(row: JobRow, stored: bytes, kind: type[_Stored], keys: KeyRing) -> _Stored:
    try:
        return msgspec.msgpack.decode(keys.open(stored), type=kind)
    except msgspec.MsgspecError as error:
        raise WireFormatError(f"the job {row.id} cannot be read: {error}") from error


def view_of(row: JobRow, keys: KeyRing) -> Job:
    """What operators see of a job: of one that cannot be read, its state and its counters."""
    source: str | None = None
    chosen: Mapping[str, Any] | None = None
    try:
        spec, progress = read_spec(row, keys), read_progress(row, keys)
        source, chosen = spec.source, spec.filter
    except (UnknownVersionError, WireFormatError) as error:
        spec, progress = Spec(id=row.id, source=""), Progress(error=str(error))
    replayed, parked = row.counts.get(REPLAYED, 0), row.counts.get(PARKED, 0)
    stored = replayed + parked
    matched = max(progress.matched, stored + progress.left)
    return Job(
        id=row.id,
        state=STALLED if row.state == RUNNING and not row.has_step else row.state,
        source=source,
        filter=chosen,
        target=None if spec.address is None else policy_names(spec.address)[1],
        limit=spec.limit,
        rate=spec.rate,
        dry_run=spec.dry_run,
        again=spec.again,
        max_replays=spec.max_replays,
        created_ms=row.created_ms,
        changed_ms=row.changed_ms,
        ended_ms=row.ended_ms,
        expires_ms=row.expires_ms,
        total=spec.total,
        read=max(progress.read, matched),
        matched=matched,
        replayed=replayed,
        parked=parked,
        # While it runs, the two are not of the same moment.
        repeated=max(0, matched - stored - progress.left) if row.state == DONE else 0,
        left=progress.left,
        problems=progress.problems,
        error=progress.error,
    )
