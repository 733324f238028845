"""Makes the steps of jobs, in whichever worker receives them.

A step takes the job, which ends what an earlier step of it might still do, and goes on where the job's position says.
A letter is stored for its delivery, and counted, in one step of Redis, which asks whether the job still runs. So a step
may end at any moment.
"""

from __future__ import annotations

import logging
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Protocol

import msgspec
from celery.exceptions import SoftTimeLimitExceeded
from msgspec.structs import replace

from ..dead_letters import Access, DeadLetters, Extent, Order, Passed, Replaced, Replay, ReplayResult
from ..errors import InvalidSettingError, UnknownVersionError, UnreachableError
from ..schedule.port import JobClaim, JobRow, Schedule, StepMessage, StepOverError
from ..selection import REDIS
from .job import DONE, FAILED, PARKED, REPLAYED, Progress, Spec, read_progress, read_spec, seal
from .rate_limit import RateLimit

#: For how long a step works before other tasks of its worker have their turn, in seconds.
_STEP_S = 0.5
#: How often a step waits for letters on their way before it ends.
_WAITS = 3
#: The time until the next step where this one only waited, in milliseconds: at first, and at most.
_IDLE_MS, _LONGEST_IDLE_MS = 50, 2_000
#: The time until the next step after an error, in milliseconds: at first, and at most.
_ERROR_MS, _LONGEST_ERROR_MS = 1_000, 60_000
#: How many problems a job names.
_PROBLEMS = 10

#: For how long a job is kept after its end.
KEEP_MS = 7 * 86_400_000

logger = logging.getLogger(__name__)


class ClaimingStore(Protocol):
    """Stores messages in the places of dead letters, for a step of a job; returns which were stored."""

    def __call__(
        self, schedule: Schedule, replaced: Sequence[Replaced], *, again: bool, claim: JobClaim | None
    ) -> Sequence[bool]: ...


class Steps:
    """Makes steps of jobs.

    Args:
        access: opens Redis and Kafka.
        dead_letters: replays them.
        store: stores messages in their places.
        step_of: gives the message of a job.
    """

    def __init__(
        self, access: Access, dead_letters: DeadLetters, store: ClaimingStore, step_of: Callable[[str], StepMessage]
    ) -> None:
        self._access = access
        self._dead_letters = dead_letters
        self._store = store
        self._step_of = step_of

    def run(self, job: str) -> None:
        """Make a step of a job. It returns at once if the job does not run.

        Raises:
            UnreachableError: if Redis does not answer; the step comes again.
        """
        step, token = self._step_of(job), uuid.uuid4().hex
        with self._access.schedule() as schedule:
            with self._access.asking():
                row = schedule.jobs.take(job, token, step)
            if row is None:
                return
            try:
                _Step(self._access, schedule, row, step, token).run(self._dead_letters, self._store)
            except StepOverError:
                logger.info("a step of job %s is over", job, extra={"event": "job_step_over", "job": job})


class _Step:
    """One step of a job that was taken.

    Args:
        access: opens Redis and Kafka.
        schedule: the schedule, for as long as the step lasts.
        row: the job.
        message: the job's message.
        token: the token of the step.
    """

    def __init__(self, access: Access, schedule: Schedule, row: JobRow, message: StepMessage, token: str) -> None:
        self._access = access
        self._schedule = schedule
        self._row = row
        self._message = message
        self._token = token
        self._keys = access.settings.encryption_keys
        self._progress = Progress()
        #: What the job remembers of messages that are on their way.
        self._underway = row.underway
        #: What a dry run has counted: nobody else does it.
        self._counts: dict[str, int] = {}

    def run(self, dead_letters: DeadLetters, store: ClaimingStore) -> None:
        """Work for a while, and let the next step follow."""
        try:
            spec = read_spec(self._row, self._keys)
            self._progress = read_progress(self._row, self._keys)
            self._work(spec, dead_letters, store)
        except (StepOverError, SoftTimeLimitExceeded):
            raise
        except UnknownVersionError as error:
            # A worker of that version, or one that has the key, may receive the next step.
            logger.error("job %s waits for another worker: %s", self._row.id, error)  # noqa: TRY400
            self._save(self._row.progress, _LONGEST_ERROR_MS)
        except UnreachableError as error:
            if error.service == "Redis":
                raise
            again_ms = min(_LONGEST_ERROR_MS, _ERROR_MS * 2 ** min(self._progress.errors, 10))
            self._pause(replace(self._progress, error=str(error), errors=self._progress.errors + 1), again_ms)
        except InvalidSettingError as error:
            self._end(FAILED, replace(self._progress, error=str(error)))
        except Exception as error:  # noqa: BLE001 - Celery would drop the step, and nobody would see why
            extra: dict[str, object] = {"event": "job_failed", "job": self._row.id}
            self._access.settings.redact.log(logger, "job %s has failed", self._row.id, error=error, extra=extra)
            self._end(FAILED, replace(self._progress, error=f"{type(error).__name__}: {error}"))

    def _work(self, spec: Spec, dead_letters: DeadLetters, store: ClaimingStore) -> None:
        before, clock = self._progress, self._access.clock
        room = None if spec.limit is None else spec.limit - sum(self._row.counts.values())
        if room == 0:
            self._end(DONE, before)
            return
        rate_limit = None if spec.rate is None or spec.dry_run else RateLimit(spec.rate, before.next_ms)
        allowed = room
        if rate_limit is not None:
            allowed = min(rate_limit.allowed(clock.now_ms()), sys.maxsize if room is None else room)
            if not allowed:
                self._pause(before, max(1, rate_limit.wait_ms(clock.now_ms())))
                return
        ends_s, waits = None, 0
        with closing(self._begin(spec, dead_letters, store, allowed)) as replay:
            while True:
                result = replay.step()
                # From here on: to connect to Kafka takes time, too.
                ends_s = clock.monotonic() + _STEP_S if ends_s is None else ends_s
                stored = result.replayed + result.parked
                # Without letters left to store it is over; not where only this step may store no more.
                is_over = result.done and (stored != allowed or stored == room)
                now = self._after(before, result, replay, is_all_read=is_over and stored != room)
                waits = waits + 1 if replay.wait_s else 0
                again_ms = None if clock.monotonic() < ends_s else 0
                if waits > _WAITS:
                    now = replace(now, idle=0 if stored else before.idle + 1)
                    again_ms = min(_LONGEST_IDLE_MS, _IDLE_MS * 2 ** min(now.idle, 10))
                if rate_limit is not None:
                    after = rate_limit.after(stored, clock.now_ms())
                    now = replace(now, next_ms=after.next_ms)
                    again_ms = after.wait_ms(clock.now_ms()) if result.done else again_ms
                self._progress = now
                if is_over:
                    self._end(DONE, now)
                    return
                self._save(seal(now, self._keys), again_ms)
                if again_ms is not None:
                    return
                if replay.wait_s:
                    clock.sleep(replay.wait_s)

    def _begin(self, spec: Spec, dead_letters: DeadLetters, store: ClaimingStore, limit: int | None) -> Replay:
        """Begin the replay where the job is."""
        underway: dict[Order, str] = {}
        if self._underway:
            stored = msgspec.msgpack.decode(self._keys.open(self._underway), type=list[tuple[str, bytes, str]])
            underway = {(topic, key): task_id for topic, key, task_id in stored}

        def store_letters(schedule: Schedule, replaced: Sequence[Replaced], *, again: bool) -> Sequence[bool]:
            expected = {order: each.task_id for each in replaced if (order := each.order) is not None}
            self._remember(spec, {**replay.underway, **expected})
            return store(schedule, replaced, again=again, claim=self._claim())

        replay = dead_letters.begin_replay(
            filter=spec.read_filter(),
            source=spec.source,
            after=self._progress.position,
            extent=Extent(spec.total, spec.until_ms, spec.ends),
            store=store_letters,
            target=spec.address,
            limit=limit,
            dry_run=spec.dry_run,
            again=spec.again,
            max_replays=spec.max_replays,
            underway=underway,
        )
        return replay

    def _remember(self, spec: Spec, underway: Mapping[Order, str]) -> None:
        """Remember what is on its way. Of a topic, the next step reads it again."""
        if spec.source == REDIS:
            entries = [(topic, key, task_id) for (topic, key), task_id in underway.items()]
            self._underway = self._keys.seal(msgspec.msgpack.encode(entries)) if entries else b""

    def _after(self, before: Progress, result: ReplayResult, replay: Replay, *, is_all_read: bool) -> Progress:
        """How far the job is after a step of the replay."""
        passed = Passed(result.read, result.matched, result.left) if is_all_read else replay.passed
        if result.dry_run:
            counted = {REPLAYED: result.replayed, PARKED: result.parked}
            self._counts = {name: self._row.counts.get(name, 0) + count for name, count in counted.items()}
        return Progress(
            position=result.position,
            read=before.read + passed.read,
            matched=before.matched + passed.matched,
            left=before.left + passed.left,
            problems=tuple(dict.fromkeys((*before.problems, *result.problems)))[:_PROBLEMS],
            next_ms=before.next_ms,
        )

    # storing

    def _claim(self) -> JobClaim:
        return JobClaim(self._row.id, self._token, self._underway)

    def _pause(self, progress: Progress, again_ms: int) -> None:
        """End the step; the next one is due in so many milliseconds."""
        self._save(seal(progress, self._keys), again_ms)

    def _save(self, progress: bytes, again_ms: int | None) -> None:
        with self._access.asking():
            self._schedule.jobs.save(self._claim(), progress, self._message, again_ms=again_ms, counts=self._counts)

    def _end(self, state: str, progress: Progress) -> None:
        if self._counts:
            self._save(seal(progress, self._keys), None)
        with self._access.asking():
            self._schedule.jobs.end(self._claim(), seal(progress, self._keys), self._message, state, KEEP_MS)
        logger.info("job %s is %s", self._row.id, state, extra={"event": f"job_{state}", "job": self._row.id})
