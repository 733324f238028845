"""`app.rebound.jobs`: replays that workers make in steps."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from celery import Celery
from celery.exceptions import Reject, SoftTimeLimitExceeded
from msgspec.structs import replace
from redis import Redis

from rebound_celery import Message, Rebound
from rebound_celery.dead_letters import NoTopicError
from rebound_celery.errors import InvalidSettingError, UnreachableError
from rebound_celery.jobs import JobStateError, NoJobError
from rebound_celery.jobs.running import KEEP_MS
from rebound_celery.jobs.step import step_id, step_of
from rebound_celery.message.address import DEAD_SET, HttpAddress
from rebound_celery.schedule.port import JobClaim, StepOverError, open_schedule
from rebound_celery.schedule.store.store import Store
from rebound_celery.selection import Filter
from rebound_celery.testing import in_memory
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.integration.test_dead_letters import IN_REDIS, Produce, Read, alone, dead, keep_dead, letter, rebound, topics
from tests.scheduling import settle, take
from tests.waiting import wait_until

__all__ = ["alone", "rebound", "topics"]


@pytest.fixture(autouse=True)
def _apps_leave_no_connection() -> Iterator[None]:
    yield
    close_redis_connections()


def hooks(count: int, url: str = "http://127.0.0.1:1/hook") -> list[Message]:
    return [replace(IN_REDIS, id=f"hook-{number}", destination=HttpAddress(url)) for number in range(count)]


def in_topic(topic: str, *numbers: int) -> list[Message]:
    """Letters for a topic that are kept in Redis. Every third has one of two keys."""
    return [
        replace(
            letter(number, topic), key=b"key-%d" % (number % 2) if number % 3 == 0 else None, dead_destination=DEAD_SET
        )
        for number in numbers
    ]


def make_steps(rebound: Rebound, job: str, most: int = 100) -> int:
    """Make the steps of a job as a worker does, without one; returns how many it took."""
    for number in range(most):
        if rebound.jobs.get(job).state != "running":
            return number
        rebound.jobs.run_step(job)
    raise AssertionError(rebound.jobs.get(job))


class Killed(BaseException):
    """As SIGKILL: nothing is saved."""


def killed(*_: Any, **__: Any) -> None:
    raise Killed


def waiting(rebound: Rebound) -> list[str | None]:
    return [view.message_id for view in rebound.pending.iterate(Filter(), queue=None) if view.kind == "retry"]


def test_a_job_replays_what_fits_and_tells_how_far_it_is(alone: Rebound) -> None:
    keep_dead(alone, *hooks(30), *(replace(each, id=f"other-{each.id}", reason="other") for each in hooks(5)))

    job = alone.jobs.start(source="redis", filter=Filter(reason="rejected"))

    begun = alone.jobs.get(job)
    assert (begun.state, begun.total, begun.replayed, begun.filter) == ("running", 35, 0, {"reason": "rejected"})
    assert alone.pending.get(step_id(job)).task == "rebound.job"  # type: ignore[union-attr]
    make_steps(alone, job)
    done = alone.jobs.get(job)
    assert (done.state, done.read, done.matched, done.replayed, done.repeated) == ("done", 35, 30, 30, 0)
    assert done.ended_ms is not None
    assert done.expires_ms == done.ended_ms + KEEP_MS
    assert sorted(filter(None, waiting(alone))) == sorted(each.id for each in hooks(30))
    assert alone.dead_letters.count() == 5


def test_options_are_checked_before_a_job_is_started(alone: Rebound, rebound: Rebound) -> None:
    for wrong, options in {
        "filter": {"source": "redis"},
        "source": {"filter": Filter()},
        "limit": {"source": "redis", "filter": Filter(), "limit": 0},
        "rate": {"source": "redis", "filter": Filter(), "rate": 0},
        "target": {"source": "redis", "filter": Filter(), "target": "ftp://a"},
        "max_replays": {"source": "redis", "filter": Filter(), "max_replays": -1},
    }.items():
        with pytest.raises(InvalidSettingError, match=f"^{wrong}="):
            alone.jobs.start(**options)  # type: ignore[arg-type]
    with pytest.raises(NoTopicError):
        rebound.jobs.start(source="no-such-dlq", filter=Filter())
    with pytest.raises(UnreachableError):
        alone.jobs.start(source="orders-dlq", filter=Filter())
    assert alone.jobs.list().entries == []


def test_a_limit_holds_over_steps_and_a_dry_run_stores_nothing(alone: Rebound) -> None:
    keep_dead(alone, *hooks(1_300))

    dry = alone.jobs.start(source="redis", filter=Filter(), dry_run=True)
    make_steps(alone, dry)
    assert (alone.jobs.get(dry).replayed, alone.dead_letters.count(), waiting(alone)) == (1_300, 1_300, [])
    job = alone.jobs.start(source="redis", filter=Filter(), limit=700)
    make_steps(alone, job)

    assert (alone.jobs.get(job).state, alone.jobs.get(job).replayed) == ("done", 700)
    assert alone.dead_letters.count() == 600


def test_a_rate_holds_over_steps(alone: Rebound) -> None:
    keep_dead(alone, *hooks(60))
    job = alone.jobs.start(source="redis", filter=Filter(), rate=40)
    begun = time.monotonic()

    with running_worker(alone.app):
        wait_until(lambda: alone.jobs.get(job).state == "done", timeout=20)

    # 10 at once, and then 40 a second.
    assert time.monotonic() - begun > 1.0
    assert alone.jobs.get(job).replayed == 60


def test_a_pause_of_the_lane_of_steps_holds_all_jobs(alone: Rebound) -> None:
    keep_dead(alone, *hooks(5))
    alone.lanes.pause("jobs", 60)
    job = alone.jobs.start(source="redis", filter=Filter())
    with running_worker(alone.app):
        alone.schedule_retry("http://127.0.0.1:1/hook", b"", id="other", base_delay=1, max_retries=0)
        wait_until(lambda: alone.dead_letters.get("other") is not None or alone.dead_letters.count() > 5, timeout=20)
        assert alone.jobs.get(job).read == 0

        alone.lanes.resume("jobs")
        wait_until(lambda: alone.jobs.get(job).state == "done", timeout=20)


@pytest.mark.parametrize("action", ["pause", "abort"])
def test_a_job_that_is_paused_or_aborted_stores_nothing_more(alone: Rebound, action: str) -> None:
    keep_dead(alone, *hooks(50))
    job = alone.jobs.start(source="redis", filter=Filter(), rate=10)
    with running_worker(alone.app):
        wait_until(lambda: alone.jobs.get(job).replayed > 3, timeout=20)
        stopped = getattr(alone.jobs, action)(job)
        left = alone.dead_letters.count()
        time.sleep(0.7)

        assert alone.dead_letters.count() == left == 50 - stopped.replayed
        assert stopped.state == {"pause": "paused", "abort": "aborted"}[action]
        assert getattr(alone.jobs, action)(job).state == stopped.state
        if action == "pause":
            assert (stopped.ended_ms, alone.jobs.resume(job).state) == (None, "running")
            wait_until(lambda: alone.jobs.get(job).replayed > stopped.replayed, timeout=20)
            alone.jobs.abort(job)
    with pytest.raises(JobStateError, match="it is aborted, and cannot be resumed"):
        alone.jobs.resume(job)


def test_a_job_that_is_unknown_or_forgotten_is_told_plainly(alone: Rebound) -> None:
    job = alone.jobs.start(source="redis", filter=Filter())
    make_steps(alone, job)
    for action in ("pause", "resume", "abort"):
        with pytest.raises(JobStateError, match="it is done"):
            getattr(alone.jobs, action)(job)
        with pytest.raises(NoJobError, match="there is no job with this id"):
            getattr(alone.jobs, action)("nothing")
    with open_schedule(alone.app, "rebound") as schedule:
        schedule._client.delete(schedule.keys.job(job))  # type: ignore[attr-defined]
    with pytest.raises(NoJobError, match="one week after it has ended"):
        alone.jobs.get(job)
    assert alone.jobs.list().entries == []


def test_jobs_are_listed_the_last_one_first(alone: Rebound) -> None:
    started = []
    for _ in range(5):
        started.append(alone.jobs.start(source="redis", filter=Filter()))
        time.sleep(0.002)

    assert [job.id for job in alone.jobs.list().entries] == started[::-1]
    assert [job.id for job in alone.jobs.list(limit=2).entries] == started[:2:-1]
    assert [job.id for job in alone.jobs.list(after=started[3], limit=2).entries] == [started[2], started[1]]


def test_a_step_that_another_one_has_replaced_can_store_nothing(alone: Rebound) -> None:
    keep_dead(alone, *hooks(3))
    job = alone.jobs.start(source="redis", filter=Filter())
    message = step_of(alone.app, "rebound", job)
    with open_schedule(alone.app, "rebound") as schedule:
        assert schedule.jobs.take(job, "first", message) is not None
        assert schedule.jobs.take(job, "second", message) is not None

        with pytest.raises(StepOverError):
            schedule.jobs.save(JobClaim(job, "first"), b"", message)
        with pytest.raises(StepOverError):
            schedule.jobs.end(JobClaim(job, "first"), b"", message, "done", 1000)
        replaying = alone.dead_letters.begin_replay(
            filter=Filter(), source="redis", store=claiming(alone, JobClaim(job, "first"))
        )
        with pytest.raises(StepOverError):
            replaying.step()
        replaying.close()
    assert (alone.dead_letters.count(), waiting(alone)) == (3, [])


def claiming(rebound: Rebound, claim: JobClaim) -> Any:
    store = rebound.jobs._store
    return lambda schedule, replaced, *, again: store(schedule, replaced, again=again, claim=claim)


def test_a_step_that_ends_before_it_has_saved_repeats_nothing_and_counts_all(
    alone: Rebound, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_dead(alone, *hooks(1_200))
    job = alone.jobs.start(source="redis", filter=Filter(), limit=900)

    with monkeypatch.context() as patched:
        patched.setattr("rebound_celery.schedule.store.jobs.StoredJobs.save", killed)
        with pytest.raises(Killed):
            alone.jobs.run_step(job)
    assert alone.jobs.get(job).replayed == 500
    make_steps(alone, job)

    assert alone.jobs.get(job).replayed == 900
    assert len(waiting(alone)) == 900
    assert alone.dead_letters.count() == 300


def test_workers_that_are_lost_again_and_again_do_not_stop_a_job_that_makes_progress(
    alone: Rebound, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_dead(alone, *hooks(3_000))
    alone.lanes.pause("http://127.0.0.1:1/hook", 3_600)
    job = alone.jobs.start(source="redis", filter=Filter())
    with monkeypatch.context() as patched, open_schedule(alone.app, "rebound") as schedule:
        assert isinstance(schedule, Store)
        patched.setattr("rebound_celery.schedule.store.jobs.StoredJobs.save", killed)
        for number in range(5):
            taken = take(schedule)
            assert [(each.id, each.losses) for each in taken.messages] == [(step_id(job), min(number, 1))]
            with pytest.raises(Killed):
                alone.jobs.run_step(job)
            settle(schedule, taken, "lost")

    assert alone.jobs.get(job).replayed == 2_500
    make_steps(alone, job)
    assert (alone.jobs.get(job).state, alone.jobs.get(job).replayed) == ("done", 3_000)


@pytest.mark.parametrize("again", [False, True])
def test_a_topic_is_replayed_once_in_the_order_of_each_key(
    rebound: Rebound, topics: tuple[str, str], produce: Produce, read_topic: Read, again: bool
) -> None:
    topic, dlq = topics
    letters = [
        replace(letter(number, topic), key=b"key-%d" % (number % 4) if number % 2 else None) for number in range(60)
    ]
    dead(produce, *letters)
    if again:
        with running_worker(rebound.app):
            assert rebound.dead_letters.replay(filter=Filter(), source=dlq).replayed == 60
            assert len(read_topic(topic, 60)) == 60

    job = rebound.jobs.start(source=dlq, filter=Filter(), again=again)
    with running_worker(rebound.app):
        wait_until(lambda: rebound.jobs.get(job).state != "running", timeout=60)
        records = read_topic(topic, 120 if again else 60)

    done = rebound.jobs.get(job)
    assert (done.state, done.replayed, done.repeated, done.read, done.matched) == ("done", 60, 0, 60, 60)
    assert Counter(record.value for record in records) == {each.value: 2 if again else 1 for each in letters}
    for key in {each.key for each in letters} - {None}:
        numbers = [json.loads(record.value)["number"] for record in records if record.key == key]
        assert numbers == sorted(numbers[: len(numbers) // (1 + again)]) * (1 + again)
    once_more = rebound.jobs.start(source=dlq, filter=Filter())
    make_steps(rebound, once_more)
    assert (rebound.jobs.get(once_more).replayed, rebound.jobs.get(once_more).repeated) == (0, 60)


def test_what_dies_after_the_start_is_left_alone(rebound: Rebound, topics: tuple[str, str], produce: Produce) -> None:
    topic, dlq = topics
    dead(produce, *(letter(number, topic) for number in range(4)))
    keep_dead(rebound, *hooks(2))
    of_topic = rebound.jobs.start(source=dlq, filter=Filter())
    of_redis = rebound.jobs.start(source="redis", filter=Filter())

    dead(produce, *(letter(number, topic) for number in range(10, 14)))
    keep_dead(rebound, *(replace(each, id=f"later-{each.id}") for each in hooks(2)), died_ms=9_000_000_000_000)
    make_steps(rebound, of_topic)
    make_steps(rebound, of_redis)

    assert rebound.jobs.get(of_topic).replayed == 4
    assert rebound.jobs.get(of_redis).replayed == 2


def test_letters_of_redis_keep_their_order_over_steps(
    rebound: Rebound, make_topic: Callable[..., str], read_topic: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is short here, so that letters are on their way when it ends."""
    monkeypatch.setattr("rebound_celery.jobs.running._STEP_S", 0.0)
    topic = make_topic(1)
    letters = in_topic(topic, *range(45))
    keep_dead(rebound, *letters)
    job = rebound.jobs.start(source="redis", filter=Filter())

    with running_worker(rebound.app):
        wait_until(lambda: rebound.jobs.get(job).state != "running", timeout=60)
        records = read_topic(topic, 45)

    assert (rebound.jobs.get(job).state, rebound.jobs.get(job).replayed) == ("done", 45)
    assert Counter(record.value for record in records) == Counter(each.value for each in letters)
    for key in (b"key-0", b"key-1"):
        numbers = [json.loads(record.value)["number"] for record in records if record.key == key]
        assert numbers == sorted(numbers)
        assert all(one < next_ for one, next_ in pairwise(numbers))


def test_a_job_goes_on_once_the_most_letters_on_their_way_are_delivered(
    alone: Rebound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rebound_celery.dead_letters.replaying._UNDERWAY", 10)
    letters = [replace(letter(number, "orders"), dead_destination=DEAD_SET) for number in range(25)]
    keep_dead(alone, *letters)
    job = alone.jobs.start(source="redis", filter=Filter())
    delivered: list[str | None] = []
    for _ in range(10):
        alone.jobs.run_step(job)
        now = waiting(alone)
        assert len(now) <= 10
        delivered += now
        if now:
            alone.pending.cancel(*filter(None, now))

    assert alone.jobs.get(job).state == "done"
    assert delivered == [each.id for each in letters]


def test_a_job_whose_topic_was_deleted_fails_and_says_so(
    rebound: Rebound, topics: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = rebound.jobs.start(source=topics[1], filter=Filter())
    with monkeypatch.context() as patched:
        patched.setattr("rebound_celery.dead_letters.topic_reader.Topics._all", lambda _: {topics[0]})
        rebound.jobs.run_step(job)

    failed = rebound.jobs.get(job)
    assert failed.state == "failed"
    assert "Kafka has no topic with this name" in str(failed.error)
    rebound.jobs.resume(job)
    make_steps(rebound, job)
    assert (rebound.jobs.get(job).state, rebound.jobs.get(job).error) == ("done", None)


def test_a_job_waits_while_kafka_is_away(alone: Rebound, rebound: Rebound, topics: tuple[str, str]) -> None:
    _, dlq = topics
    job = rebound.jobs.start(source=dlq, filter=Filter())

    # The same Redis, and a Kafka that nobody answers for.
    alone.jobs.run_step(job)

    waits = alone.jobs.get(job)
    assert waits.state == "running"
    assert "cannot reach Kafka" in str(waits.error)
    assert alone.pending.get(step_id(job)).due_ms > waits.changed_ms  # type: ignore[union-attr, operator]
    make_steps(rebound, job)
    assert (rebound.jobs.get(job).state, rebound.jobs.get(job).error) == ("done", None)


def test_a_job_whose_step_was_cancelled_is_stalled_and_can_go_on(alone: Rebound) -> None:
    keep_dead(alone, *hooks(3))
    job = alone.jobs.start(source="redis", filter=Filter())
    alone.pending.cancel(step_id(job))

    assert alone.jobs.get(job).state == "stalled"
    assert alone.jobs.resume(job).state == "running"
    make_steps(alone, job)
    assert alone.jobs.get(job).replayed == 3


def test_a_job_whose_workers_were_lost_too_often_is_stalled_and_can_go_on(alone: Rebound) -> None:
    keep_dead(alone, *hooks(3))
    job = alone.jobs.start(source="redis", filter=Filter())
    with open_schedule(alone.app, "rebound") as schedule:
        assert isinstance(schedule, Store)
        taken = take(schedule)
        assert taken.ids == [step_id(job)]
        settle(schedule, taken, "worker-lost")

    assert alone.jobs.get(job).state == "stalled"
    (step,) = alone.dead_letters.list(Filter(reason="worker-lost"), source="redis").entries
    assert (step.id, step.kept_in) == (step_id(job), "redis")
    alone.jobs.resume(job)
    make_steps(alone, job)
    done = alone.jobs.get(job)
    assert (done.state, done.replayed, done.left) == ("done", 3, 0), done


def test_an_unexpected_error_ends_a_job_that_can_be_resumed(alone: Rebound, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_dead(alone, *hooks(3))
    job = alone.jobs.start(source="redis", filter=Filter())
    with monkeypatch.context() as patched:
        patched.setattr("rebound_celery.dead_letters.replaying.Replay.step", lambda _: 1 / 0)
        alone.jobs.run_step(job)

    failed = alone.jobs.get(job)
    assert (failed.state, failed.error) == ("failed", "ZeroDivisionError: division by zero")
    assert failed.expires_ms is not None
    alone.jobs.resume(job)
    make_steps(alone, job)
    assert (alone.jobs.get(job).state, alone.jobs.get(job).replayed) == ("done", 3)


def test_a_job_of_a_later_version_waits_for_a_worker_of_that_version(
    alone: Rebound, caplog: pytest.LogCaptureFixture
) -> None:
    keep_dead(alone, *hooks(2))
    job = alone.jobs.start(source="redis", filter=Filter())
    other = alone.jobs.start(source="redis", filter=Filter(reason="other"))
    with open_schedule(alone.app, "rebound") as schedule:
        row = schedule.jobs.get(job, step_id(job))
    assert row is not None
    client = Redis.from_url(alone.app.conf.broker_url)
    (key,) = client.scan_iter(f"*job:{job}")
    client.hset(key, "spec", msgspec.msgpack.encode({**msgspec.msgpack.decode(row.spec), "version": 2}))
    client.hset(key, "weather", "rain")

    alone.jobs.run_step(job)

    found = alone.jobs.get(job)
    assert (found.state, found.replayed, alone.dead_letters.count()) == ("running", 0, 2)
    assert "a later version" in (found.error or "")
    assert f"job {job} waits for another worker" in caplog.text
    assert client.hget(key, "weather") == b"rain"
    assert {each.id for each in alone.jobs.list().entries} == {job, other}
    (step,) = [view for view in alone.pending.list().entries if view.id == step_id(job)]
    assert step.due_ms > time.time() * 1000 + 50_000
    assert alone.jobs.abort(job).state == "aborted"


def test_a_step_that_runs_out_of_time_comes_again(alone: Rebound, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_dead(alone, *hooks(2))
    job = alone.jobs.start(source="redis", filter=Filter())

    def too_long(*_: object, **__: object) -> None:
        raise SoftTimeLimitExceeded

    with monkeypatch.context() as patch:
        patch.setattr(Store, "dead", too_long)
        with pytest.raises(Reject) as rejected:
            alone.app.tasks["rebound.job"].run(job)
    assert rejected.value.requeue
    assert alone.jobs.get(job).state == "running"
    make_steps(alone, job)
    assert alone.jobs.get(job).replayed == 2


def test_two_steps_at_once_store_each_letter_once(alone: Rebound) -> None:
    keep_dead(alone, *hooks(1_500))
    job = alone.jobs.start(source="redis", filter=Filter(), limit=1_200)

    def work() -> None:
        while alone.jobs.get(job).state == "running":
            alone.jobs.run_step(job)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert alone.jobs.get(job).replayed == 1_200
    assert len(waiting(alone)) == len(set(waiting(alone))) == 1_200
    assert alone.dead_letters.count() == 300


def test_what_is_stored_of_a_job_is_encrypted(redis_url: str) -> None:
    keys = "k1:" + "A" * 43 + "="
    app = Celery("shop", broker=redis_url, set_as_current=False)
    secret = Rebound(app, encryption_keys=keys)
    keep_dead(secret, *hooks(1))
    job = secret.jobs.start(source="redis", filter=Filter(), target="http://user:password@127.0.0.1:1/other")
    with open_schedule(app, "rebound") as schedule:
        row = schedule.jobs.get(job, step_id(job))
        assert row is not None
        assert b"password" not in row.spec
    assert secret.jobs.get(job).target == "http://127.0.0.1:1/other"
    make_steps(secret, job)
    assert secret.jobs.get(job).replayed == 1


def test_a_job_runs_in_memory() -> None:
    app = Celery("shop", set_as_current=False)
    rebound = Rebound(app)
    with in_memory(app) as memory:
        rebound.schedule_retry("http://shop.example/hook", b"1", max_retries=0, error="x")
        memory.http.answer = lambda *_: 200
        memory.run()
        assert rebound.dead_letters.count() == 1

        job = rebound.jobs.start(source="redis", filter=Filter())
        memory.run()

        assert (rebound.jobs.get(job).state, rebound.jobs.get(job).replayed) == ("done", 1)
        assert len(memory.http.posts) == 1
