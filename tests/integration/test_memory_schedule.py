"""The schedule in memory answers as the one in Redis does."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from rebound_celery import Rebound
from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.schedule.port import (
    DeadEntry,
    Do,
    Entry,
    HealthReport,
    JobClaim,
    Revival,
    Schedule,
    Step,
    StepMessage,
    StepOverError,
    Unique,
    open_schedule,
)
from rebound_celery.testing.schedule import MemorySchedule
from tests.acceptance.apps.worker import close_redis_connections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATER_MS = 10_000_000_000_000
STEP = StepMessage("step-of-j", b"step", "jobs", 3)


@pytest.fixture
def schedules(redis_url: str) -> Iterator[list[Schedule]]:
    """One in memory, one in Redis."""
    with Celery("faults", broker=redis_url, set_as_current=False) as app:
        rebound = Rebound(app)
        with open_schedule(app, rebound.settings.queue) as in_redis:
            yield [MemorySchedule(rebound.settings.queue, SYSTEM_CLOCK), in_redis]
        close_redis_connections()


def entry(number: int, lane: str = "kafka:orders", stored: bytes = b"{}", priority: int = 3) -> Entry:
    return Entry(f"m{number}:1", LATER_MS + number, stored, lane, priority)


def job_of(schedule: Schedule) -> Any:
    """The job, but for its times."""
    row = schedule.jobs.get("j", STEP.id)
    if row is None:
        return None
    ended = row.ended_ms is not None, row.expires_ms is not None
    return row.state, row.spec, row.progress, row.underway, dict(row.counts), row.has_step, ended


def is_over(act: Callable[[], object]) -> bool:
    """Whether an act is one of a step that is over."""
    try:
        act()
    except StepOverError:
        return True
    return False


def jobs(schedule: Schedule) -> Iterator[Any]:
    """What it answers to one walk through the life of a job."""
    job = schedule.jobs
    first, second = JobClaim("j", "first", b"on its way"), JobClaim("j", "second")
    yield job.get("j", STEP.id), job.page(str), job.change("j", "pause", STEP, 1_000), job.take("j", "first", STEP)
    yield job.add("j", b"spec", STEP), job.add("j", b"spec", STEP), job.add("j", b"other", STEP), job_of(schedule)
    yield is_over(lambda: job.save(first, b"no", STEP))
    taken = job.take("j", "first", STEP)
    yield taken and taken.spec, job_of(schedule)
    yield job.save(first, b"a", STEP, counts={"replayed": 3}), job_of(schedule)
    schedule.keep_dead([DeadEntry(f"f{number}", "why", b"stored", 5) for number in range(3)])
    revivals = [Revival(entry(60 + number), f"f{number}", counter="replayed") for number in range(2)]
    revivals.append(Revival(entry(62), "f2", counter="parked"))
    yield schedule.revive(revivals[:2], claim=first), job_of(schedule)
    yield bool(job.take("j", "second", STEP)), is_over(lambda: job.save(first, b"no", STEP))
    yield is_over(lambda: schedule.revive(revivals[2:], claim=first)), schedule.dead_letter("f2") is not None
    yield schedule.revive(revivals, claim=second), job_of(schedule)
    series = [
        Revival(entry(70 + number), None, "orders-dlq:3", 65_530 + number, counter="replayed") for number in (0, 1)
    ]
    yield [schedule.revive(series, again=True, claim=second), schedule.cancel_each("m70:1", "m71:1")]
    yield schedule.revive(series, again=True, claim=second), schedule.revive(series, claim=second), job_of(schedule)
    schedule.cancel(STEP.id)
    yield job_of(schedule), job.change("j", "resume", STEP, 1_000), job_of(schedule)
    yield job.change("j", "resume", STEP, 1_000), job.change("j", "pause", STEP, 1_000), job_of(schedule)
    yield is_over(lambda: job.end(second, b"no", STEP, "done", 1_000)), job.change("j", "pause", STEP, 1_000)
    yield job.take("j", "third", STEP), job.change("j", "resume", STEP, 1_000), job.take("j", "third", STEP) is not None
    third = JobClaim("j", "third")
    yield job.save(third, b"b", STEP, again_ms=LATER_MS), (schedule.get(STEP.id) or entry(0)).due_ms > LATER_MS
    yield job.end(third, b"c", STEP, "failed", 60_000), job_of(schedule), job.change("j", "abort", STEP, 60_000)
    yield job.change("j", "resume", STEP, 60_000), job.change("j", "abort", STEP, 60_000), job_of(schedule)
    yield job.change("j", "resume", STEP, 60_000), [row.id for row in job.page(lambda _: STEP.id)]
    schedule.remove_dead("f2")


def answers(schedule: Schedule) -> Iterator[Any]:
    """What it answers to one walk through its methods."""
    yield schedule.queue
    yield schedule.enqueue([entry(number) for number in range(5)])
    yield schedule.enqueue([entry(0, stored=b"new"), entry(5, "http:a")])
    yield schedule.enqueue([entry(1, stored=b"not kept"), entry(6, "http:a")], keep=True)
    yield schedule.get("m0:1"), schedule.get("m1:1"), schedule.get("nothing")
    page = schedule.page(count=3)
    yield page
    yield schedule.page(after=page.next, count=10)
    yield schedule.page("http:a")
    yield schedule.page(leased=True)
    yield schedule.cancel("m2:1", "nothing"), schedule.cancel("m2:1")
    yield schedule.known(["m3:1", "nothing", "m0:1", "m3:1"])
    yield schedule.cancel_each("m6:1", "nothing", "m2:1"), schedule.cancel_each("m6:1")
    yield schedule.reschedule(LATER_MS + 100, "m3:1", "nothing")
    yield [waiting.id for waiting in schedule.page().entries]
    yield schedule.enqueue_unique([(entry(10 + number), Unique("a", "keep")) for number in range(2)])
    yield schedule.enqueue_unique(
        [(entry(20 + number, stored=b"%d" % number), Unique("b", "replace")) for number in (0, 1)]
    )
    yield schedule.enqueue_unique([(entry(30 + number), Unique("c", "extend")) for number in range(2)])
    yield [schedule.get(f"m{number}:1") for number in (10, 20, 30)]
    counts = schedule.counts()
    yield counts.waiting, counts.leased, counts.dead, dict(counts.by_lane)
    schedule.pause("kafka:orders", LATER_MS)
    schedule.set_rate("http:a", 5)
    schedule.set_rate("http:b", 7)
    schedule.set_rate("http:b", None)
    yield sorted(schedule.lanes(), key=lambda lane: lane.name)
    schedule.resume("kafka:orders")
    schedule.set_rate("http:a", None)
    yield sorted(schedule.lanes(), key=lambda lane: lane.name)
    schedule.keep_dead([DeadEntry(f"d{number}", "why", b"stored") for number in range(3)])
    schedule.keep_dead([DeadEntry("d1", "another", b"stored")])
    yield schedule.dead_letter("nothing"), schedule.remove_dead("d0", "nothing")
    yield sorted((letter.id, letter.reason, letter.stored) for letter in schedule.dead().letters)
    schedule.keep_dead([DeadEntry(f"e{number}", "why", b"stored", 5) for number in range(2)])
    revivals = [Revival(entry(40), "e0"), Revival(entry(41), "e1"), Revival(entry(41), "e1"), Revival(entry(42), "no")]
    yield schedule.revive(revivals), sorted(letter.id for letter in schedule.dead().letters)
    series = [Revival(entry(50 + number), None, "orders-dlq:3", 65_530 + number % 8) for number in range(10)]
    yield schedule.revive(series), schedule.revive(series), schedule.stats()["revived"]
    schedule.cancel(*(each.entry.id for each in series))
    yield schedule.revive(series), schedule.revive(series, again=True), schedule.stats()["revived"]
    yield from jobs(schedule)
    yield sorted(waiting.id for waiting in schedule.page().entries)
    yield schedule.expire_dead(60_000), schedule.expire_dead(-60_000, most=1)
    yield schedule.dead().next, schedule.breakers(), schedule.overdue_ms()
    yield schedule.chain_names(""), schedule.chains(), schedule.unhealthy()
    yield schedule.health(["http:a"]), schedule.report_health([HealthReport("http:a", took=True)])
    yield schedule.clear_health("http:a")
    yield schedule.purge(), schedule.counts().waiting, schedule.counts().dead


def test_both_answer_alike(schedules: list[Schedule]) -> None:
    for in_memory, in_redis in zip(*map(answers, schedules), strict=True):
        assert in_memory == in_redis


def step_of(draw: random.Random) -> Step:
    do, chain, place = draw.choice(list(Do)), f"shop/orders/0/{draw.randrange(3)}", draw.randrange(5)
    attempt = draw.choice((1, 1, 2, 3))
    entry = None
    if do in (Do.ARRIVE, Do.WAIT, Do.GONE) or (do == Do.FINISH and draw.random() < 0.2):
        due_ms = draw.choice((0, LATER_MS))
        stored = b"" if do == Do.GONE else f"{chain} {place} {attempt}".encode()
        # A dead letter has an id of its own.
        name = f"{chain}:{place}:{'dead' if do == Do.FINISH else attempt}"
        entry = Entry(name, due_ms, stored, f"kafka:{chain[-1]}", 3)
    # Only a message that becomes a dead letter can hold its chain.
    hold = draw.random() < 0.3 and (do != Do.FINISH or entry is not None)
    return Step(do, chain, place, attempt, entry, hold, draw.choice((0, 1, 3)))


def walk(schedule: Schedule, seed: int) -> Iterator[Any]:
    """What it answers to random steps, and what is stored after each."""
    draw = random.Random(seed)
    for number in range(60):
        steps = [step_of(draw) for _ in range(draw.choice((1, 1, 1, 4)))]
        answers = schedule.chain(steps, f"token {draw.randrange(2)} {number // 3}", 600_000)
        yield steps, [(answer.outcome, answer.is_open, list(answer.taken)) for answer in answers]
        if draw.random() < 0.1:
            yield schedule.cancel(*(f"shop/orders/0/{draw.randrange(3)}:{place}:1" for place in range(5)))
        yield schedule.chains()
        yield schedule.chain_names("shop/", "shop/orders/0/0", 2), schedule.chain_names("shop/orders/0/1")
        entries = schedule.page().entries
        yield sorted((waiting.id, waiting.stored, waiting.lane, waiting.leased) for waiting in entries)
        # A message that is taken is due when that ends: a time by each schedule's own clock.
        yield sorted((waiting.id, waiting.due_ms) for waiting in entries if waiting.due_ms == LATER_MS)
        counts = schedule.counts()
        yield counts.waiting, counts.behind
        yield {name: schedule.stats().get(name, 0) for name in ("stored", "finished", "cancelled")}
    yield schedule.purge(), schedule.chains(), schedule.counts().behind


@pytest.mark.parametrize("seed", range(20))
def test_chains_go_on_alike_in_both(schedules: list[Schedule], seed: int) -> None:
    for in_memory, in_redis in zip(*(walk(schedule, seed) for schedule in schedules), strict=True):
        assert in_memory == in_redis
