"""`app.rebound.jobs`: replays of dead letters that workers make, as every face of rebound shows and steers them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from ..dead_letters import Access, DeadLetters, check_options
from ..errors import InvalidSettingError
from ..message.address import Address, parse_address
from ..schedule.port import StepMessage
from ..selection import Filter, check_filter, check_text
from .errors import JobStateError, NoJobError
from .job import ABORTED, PAUSED, RUNNING, Job, JobPage, Spec, seal, view_of
from .running import KEEP_MS, ClaimingStore, Steps
from .step import step_id, step_of
from .task import register_task

#: The largest page of `list`.
LARGEST_PAGE = 1_000

#: The states in which an action has nothing left to do.
_ALREADY = {"pause": (PAUSED,), "resume": (RUNNING,), "abort": (ABORTED,)}


class Jobs:
    """The replays that the workers of an app make in small steps, each a Celery task on rebound's own queue.

    A job goes on whichever workers run, and after each of them is lost. Every method raises UnreachableError if Redis
    does not answer.

    Args:
        app: the Celery app.
        access: opens Redis and Kafka.
        dead_letters: the dead letters.
        store: stores messages in their places, for a step of a job.
        queue: tells the name of rebound's queue.
    """

    def __init__(
        self,
        app: Any,
        access: Access,
        dead_letters: DeadLetters,
        store: ClaimingStore,
        queue: Callable[[], str],
    ) -> None:
        self._app = app
        self._access = access
        self._dead_letters = dead_letters
        self._store = store
        self._queue = queue

    def start(
        self,
        *,
        filter: Filter | None = None,  # noqa: A002 - the field's own word
        source: str | None = None,
        target: str | Mapping[str, Any] | Address | None = None,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        again: bool = False,
        max_replays: int = 3,
    ) -> str:
        """Let the workers replay all dead letters that fit the filter; returns the id of the job.

        It is about the letters that are there now. Their order is kept as by `DeadLetters.replay`, also where steps are
        made by several workers, or a worker is lost.

        Args:
            filter: which letters are meant. It has to be given; Filter() means all.
            source: "redis", or the name of a Kafka topic. It has to be given.
            target, limit, rate, dry_run, again, max_replays: see `DeadLetters.replay`.

        Raises:
            InvalidSettingError: naming the option that is wrong; NoTopicError if there is no such topic.
            UnreachableError: if Kafka does not answer, either.
        """
        if filter is None:
            raise InvalidSettingError("filter", filter, "give a filter (Filter() means all)")
        check_filter(filter)
        if source is None:
            raise InvalidSettingError("source", source, "say whose dead letters: redis, or a topic")
        check_options(limit, rate, max_replays)
        address = None if target is None else parse_address(target, field="target")
        extent = self._dead_letters.extent(source)
        job = uuid.uuid4().hex[:10]
        spec = Spec(
            id=job,
            source=source,
            filter=filter.to_dict(),
            target=None if address is None else address.to_wire(),
            limit=limit,
            rate=rate,
            dry_run=dry_run,
            again=again,
            max_replays=max_replays,
            total=extent.total,
            until_ms=extent.until_ms,
            ends=extent.ends,
        )
        sealed = seal(spec, self._access.settings.encryption_keys)
        with self._access.schedule() as schedule, self._access.asking():
            schedule.jobs.add(job, sealed, self._step(job))
        return job

    # looking

    def list(self, after: str | None = None, limit: int = 100) -> JobPage:
        """Return a page of jobs, the last one that was started first.

        Args:
            after: the `next` of the page before; None begins with the last one.
            limit: the largest number of jobs; 1 to 1,000.
        """
        if type(limit) is not int or not 1 <= limit <= LARGEST_PAGE:
            raise InvalidSettingError("limit", limit, f"it is a whole number from 1 to {LARGEST_PAGE:,}")
        with self._access.schedule() as schedule, self._access.asking():
            rows = schedule.jobs.page(step_id, after, limit + 1)
        found = [view_of(row, self._access.settings.encryption_keys) for row in rows[:limit]]
        return JobPage(found, found[-1].id if len(rows) > limit else None)

    def get(self, job: str) -> Job:
        """Return a job.

        Raises:
            InvalidSettingError: if the id is no text.
            NoJobError: if there is none with this id, or no more: a job is forgotten a week after its end.
        """
        check_text("job", job, "it is the id of a job, as a text")
        with self._access.schedule() as schedule, self._access.asking():
            row = schedule.jobs.get(job, step_id(job))
        if row is None:
            raise NoJobError(job)
        return view_of(row, self._access.settings.encryption_keys)

    # steering

    def pause(self, job: str) -> Job:
        """Let a job wait, until it is resumed. It stores nothing from now on; what it has stored is delivered.

        Raises:
            NoJobError: see `get`.
            JobStateError: if it has ended.
        """
        return self._change(job, "pause")

    def resume(self, job: str) -> Job:
        """Let a job go on that is paused or stalled, or that has failed; raises what `pause` raises."""
        return self._change(job, "resume")

    def abort(self, job: str) -> Job:
        """End a job. It stores nothing from now on; what it has stored is delivered. Raises what `pause` raises."""
        return self._change(job, "abort")

    # working

    def run_step(self, job: str) -> None:
        """Make a step of a job, as a worker does.

        Raises:
            UnreachableError: if Redis does not answer; the step comes again.
        """
        self._steps.run(job)

    def register(self) -> None:
        """Add the Celery task that makes the steps to the app."""
        register_task(self._app, self.run_step)

    # how it works

    @cached_property
    def _steps(self) -> Steps:
        return Steps(self._access, self._dead_letters, self._store, self._step)

    def _step(self, job: str) -> StepMessage:
        return step_of(self._app, self._queue(), job)

    def _change(self, job: str, action: str) -> Job:
        check_text("job", job, "it is the id of a job, as a text")
        with self._access.schedule() as schedule, self._access.asking():
            changed = schedule.jobs.change(job, action, self._step(job), KEEP_MS)
        if not changed.before:
            raise NoJobError(job)
        if not changed.is_changed and changed.before not in _ALREADY[action]:
            raise JobStateError(job, changed.before, action)
        return self.get(job)
