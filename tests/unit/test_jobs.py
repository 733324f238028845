"""Parts of jobs that need no server: the rate_limit, what is told, and what a later step reads again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from rebound_celery.dead_letters.passing import Passing
from rebound_celery.dead_letters.replay_values import Passed
from rebound_celery.errors import UnknownVersionError
from rebound_celery.jobs.job import Progress, Spec, read_spec, seal, view_of
from rebound_celery.jobs.rate_limit import RateLimit
from rebound_celery.message.encryption import NO_KEYS
from rebound_celery.schedule.port import JobRow, Position

NOW_MS = 1_700_000_000_000


def stored_in(rate: float, seconds: float, *, late_ms: int = 0) -> int:
    """How many letters steps store in this time, each of which comes as late as that."""
    rate_limit, now_ms, stored = RateLimit(rate, 0), NOW_MS, 0
    while now_ms < NOW_MS + seconds * 1000:
        allowed = rate_limit.allowed(now_ms)
        if allowed:
            stored += allowed
            rate_limit = rate_limit.after(allowed, now_ms)
        now_ms += max(1, rate_limit.wait_ms(now_ms)) + late_ms
    return stored


@pytest.mark.parametrize("rate", [0.1, 0.9, 1, 3, 40, 2_000, 1e6])
@pytest.mark.parametrize("late_ms", [0, 30, 200])
def test_the_rate_holds_over_steps_that_come_in_time_or_late(rate: float, late_ms: int) -> None:
    stored = stored_in(rate, 100, late_ms=late_ms)

    assert stored <= rate * 100 + max(1, rate * 0.5) + 1
    assert stored >= rate * 100 * 0.9 - 1


def test_what_was_not_stored_for_long_is_not_made_up_for() -> None:
    rate_limit = RateLimit(100, 0).after(25, NOW_MS)

    assert rate_limit.allowed(NOW_MS) == 0
    assert rate_limit.allowed(NOW_MS + 3_600_000) == 50
    late = rate_limit.after(50, NOW_MS + 3_600_000)
    assert late.allowed(NOW_MS + 3_600_000) <= 1


def seen(identity: str, ms: int = 0, partition: int | None = None, offset: int | None = None) -> Any:
    view = SimpleNamespace(id=identity, partition=partition, offset=offset)
    return SimpleNamespace(view=view, place=Position(ms, identity))


def test_what_waits_in_redis_is_read_again_and_what_has_left_it_is_not() -> None:
    passing = Passing(None)
    letters = [seen(f"m{number}", 10 + number // 2) for number in range(6)]
    for letter in letters:
        passing.add(letter).matched = letter.view.id != "m0"
    for letter in (letters[1], letters[4]):
        passing.store(letter, is_stored=True)

    # m2 waits for an earlier letter; m3 and m5 follow it.
    assert passing.place({"m2", "m3", "m5"}, Position(12, "m5")) == Position(10, "m1")
    assert passing.passed == Passed(3, 2, 0)
    assert passing.place(set(), Position(12, "m5")) == Position(12, "m5")
    assert passing.passed == Passed(6, 5, 0)


def test_nothing_is_passed_in_redis_where_the_first_letter_waits() -> None:
    passing = Passing(Position(5, "a"))
    passing.add(seen("m0", 10))

    assert passing.place({"m0"}, Position(10, "m0")) == Position(5, "a")
    assert passing.passed == Passed()


def test_offsets_before_the_position_are_passed() -> None:
    passing = Passing(None)
    for partition in (0, 1):
        for offset in range(4):
            passing.add(seen(f"t:{partition}:{offset}", 0, partition, offset)).left = offset == 0

    passing.pass_offsets({0: 2, 1: 0})
    assert passing.passed == Passed(2, 0, 1)
    passing.pass_offsets({0: 4, 1: 4})
    assert passing.passed == Passed(8, 0, 2)


def row(state: str = "running", *, has_step: bool = True, progress: Progress | None = None, **counts: int) -> JobRow:
    spec = Spec(id="a", source="redis", target={"url": "https://user:secret@shop.example/hook?token=1"}, total=10)
    return JobRow(
        id="a",
        state=state,
        spec=seal(spec, NO_KEYS),
        progress=b"" if progress is None else seal(progress, NO_KEYS),
        underway=b"",
        counts=counts,
        created_ms=NOW_MS,
        changed_ms=NOW_MS,
        ended_ms=None,
        expires_ms=None,
        has_step=has_step,
    )


def test_a_job_that_has_no_step_is_stalled_and_secrets_are_not_shown() -> None:
    job = view_of(row(has_step=False), NO_KEYS)

    assert (job.state, job.target) == ("stalled", "https://shop.example/hook")
    assert "secret" not in str(job.to_dict())
    assert view_of(row("paused", has_step=False), NO_KEYS).state == "paused"


def test_counters_that_are_ahead_of_the_position_are_told() -> None:
    job = view_of(row(progress=Progress(read=4, matched=3, left=1), replayed=5, parked=1), NO_KEYS)

    assert (job.read, job.matched, job.replayed, job.parked, job.repeated) == (7, 7, 5, 1, 0)
    done = view_of(row("done", progress=Progress(read=9, matched=8, left=1), replayed=5), NO_KEYS)
    assert (done.read, done.matched, done.repeated) == (9, 8, 2)


def test_a_spec_of_a_later_version_is_read() -> None:
    later = msgspec.msgpack.encode({"id": "a", "source": "redis", "ends": {3: 5}, "what is new": [1]})

    read = read_spec(replace(row(), spec=later), NO_KEYS)
    assert (read.source, read.ends, read.max_replays) == ("redis", {3: 5}, 3)


@pytest.mark.parametrize(
    "more", [{"version": 2}, {"filter": {"weather": "rain"}}, {"target": {"topic": "other", "weather": "rain"}}]
)
def test_a_job_with_an_option_of_a_later_version_is_left_alone(more: dict[str, Any]) -> None:
    later = replace(row(replayed=7), spec=msgspec.msgpack.encode({"id": "a", "source": "redis", **more}))

    with pytest.raises(UnknownVersionError, match="a later version wrote the job a"):
        read_spec(later, NO_KEYS)
    job = view_of(later, NO_KEYS)
    assert (job.id, job.state, job.replayed, job.source, job.filter) == ("a", "running", 7, None, None)
    assert "a later version" in (job.error or "")


@pytest.mark.parametrize("stored", [b"", b"\xc1", msgspec.msgpack.encode({"id": 3})])
def test_a_damaged_job_is_shown_with_what_redis_knows_of_it(stored: bytes) -> None:
    job = view_of(replace(row("paused"), spec=stored), NO_KEYS)

    assert (job.state, job.source) == ("paused", None)
    assert "the job a cannot be read" in (job.error or "")
