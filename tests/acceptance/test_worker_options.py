"""Countdowns under the common options of a worker. Each worker has several options, and none hides another."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.test_delayed_delivery import FULL, POOLS, Bench
from tests.servers import RedisServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.processes import Process

ALONE = ("--without-mingle", "--without-gossip")


@pytest.fixture
def bench(run_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with RedisServer() as server:
        bench = Bench(server, run_process, monkeypatch)
        yield bench
        for worker in bench.workers:
            worker.stop()
        bench.redis.close()


def conf(**settings: Any) -> str:
    return json.dumps(settings)


def words(bench: Bench, first: str) -> list[list[str]]:
    """What tasks said that began with this word."""
    return [line.split() for line in bench.said() if line.split()[0] == first]


def at_once(bench: Bench) -> int:
    """How many tasks ran at the same time, at most."""
    steps = [{"begun": 1, "done": -1}.get(line.split()[0], 0) for line in bench.said()]
    return max(accumulate(steps), default=0)


def nothing_left(bench: Bench) -> None:
    wait_until(lambda: not bench.left(), timeout=15, message=lambda: str(bench.left()))


def test_prefork_that_scales_ends_its_children_and_limits_time(bench: Bench):
    """--autoscale, --max-tasks-per-child, worker_prefetch_multiplier 1, soft and hard time limits."""
    worker = bench.worker(
        "prefork", "--autoscale", "3,1", "--max-tasks-per-child", "2", *ALONE, TEST_PREFETCH="1", TEST_LEASE="5"
    )
    bench.call("for n in range(12): place.apply_async((n, 0.5), countdown=1)")

    wait_until(lambda: len(words(bench, "done")) == 12, timeout=60, message=worker.tail)
    begun = words(bench, "begun")
    assert len({number for _, number, _ in begun}) == len(begun) == 12
    assert max(Counter(pid for _, _, pid in begun).values()) <= 2
    assert at_once(bench) > 1, "it did not scale: Celery does not for a task with an eta"
    nothing_left(bench)

    printed = bench.call(
        "from celery.exceptions import TimeLimitExceeded\n"
        "gentle, killed = soft.apply_async((20,), countdown=0.5), hard.apply_async((21,), countdown=0.5)\n"
        "print('gentle', gentle.get(timeout=30))\n"
        "try:\n"
        "    killed.get(timeout=30)\n"
        "except TimeLimitExceeded: print('killed in time')\n"
        "place.apply_async((22, 0), countdown=0.2)"
    )
    assert "gentle None" in printed
    assert "killed in time" in printed
    wait_until(lambda: words(bench, "done")[-1][1] == "22", timeout=20, message=worker.tail)
    assert words(bench, "soft") == [["soft", "20"]]
    assert sorted(word[1] for word in words(bench, "begun"))[-3:] != [], worker.tail()
    assert Counter(word[1] for word in words(bench, "begun")).most_common(1)[0][1] == 1
    nothing_left(bench)


def test_threads_without_a_prefetch_limit_with_beat_and_events(bench: Bench, tmp_path: Any):
    """worker_prefetch_multiplier 0, -B with a countdown in the schedule, -E, and what needs no worker of its own:
    Producer.batch() and task_always_eager."""
    beat = conf(
        beat_schedule={"tick": {"task": "tests.acceptance.apps.scheduled.place", "schedule": 2.0, "args": [900, 0],
                                "options": {"countdown": 1, "expires": 60}}},
        task_track_started=True,
    )  # fmt: skip
    worker = bench.worker(
        "threads", "-E", *ALONE, "-B", "-s", str(tmp_path / "beat"), TEST_PREFETCH="0", TEST_CONF=beat
    )
    printed = bench.call(
        "receiver = app.events.Receiver(app.connection(), handlers={'*': lambda event: seen.append(event)})\n"
        "seen = []\n"
        "import threading\n"
        "def watch():\n"
        "    with app.connection() as connection:\n"
        "        receiver = app.events.Receiver(connection, handlers={'*': seen.append})\n"
        "        try: receiver.capture(limit=None, timeout=6, wakeup=False)\n"
        "        except OSError: pass\n"
        "thread = threading.Thread(target=watch, daemon=True); thread.start(); time.sleep(1)\n"
        "with app.producer_or_acquire() as producer, producer.batch():\n"
        "    results = [note.apply_async((n, time.time() + 1), countdown=1, producer=producer) for n in range(50)]\n"
        "    print('inside', log.hlen('rebound:1:{celery}:messages') <= 1)\n"
        "print('eta', all(result.get(timeout=30) for result in results))\n"
        "wanted = {(result.id, kind) for result in results for kind in ('task-received', 'task-succeeded')}\n"
        "deadline = time.time() + 15\n"
        "def have(): return {(event.get('uuid'), event['type']) for event in list(seen)}\n"
        "while time.time() < deadline and not wanted <= have(): time.sleep(0.1)\n"
        "print('events', wanted <= have())\n"
        "app.conf.task_always_eager = True\n"
        "began = time.time()\n"
        "print('eager', add.apply_async((1, 2), countdown=60).get(), time.time() - began < 5)"
    )
    for answer in ("inside True", "eta True", "events True", "eager 3 True"):
        assert answer in printed, printed
    ran = Counter(line.split()[0] for line in bench.said() if line[0].isdigit())
    assert (len(ran), set(ran.values())) == (50, {1})
    wait_until(lambda: len(words(bench, "done")) >= 2, timeout=20, message=worker.tail)  # beat's


def test_due_tasks_do_not_wait_behind_a_full_ordinary_queue(bench: Bench):
    """Stock Celery has them in its memory by then; here they have credit of their own."""
    worker = bench.worker("prefork", *ALONE, TEST_PREFETCH="1")
    bench.call(
        "for n in range(20): note.apply_async((n, time.time() + 2), countdown=2)\n"
        "for n in range(300): work.delay(n, 0.02)"
    )

    wait_until(lambda: len(words(bench, "done")) == 300 and len(bench.said()) == 620, timeout=60, message=worker.tail)
    last_due = max(position for position, line in enumerate(bench.said()) if line[0].isdigit())
    behind = [line for line in bench.said()[last_due:] if line.startswith("begun")]
    assert len(behind) > 20, "what is due waited for the others"


@pytest.mark.parametrize("pool", ["prefork", "threads"] if FULL else ["prefork"])
def test_worker_that_takes_only_what_it_can_run(bench: Bench, pool: str):
    """worker_disable_prefetch: the others are free for other workers all the time."""
    worker = bench.worker(
        pool, *ALONE, TEST_CONF=conf(worker_disable_prefetch=True), TEST_PREFETCH="1", TEST_ACKS_LATE="1"
    )
    bench.call("for n in range(10): place.apply_async((n, 0.4), countdown=1)")
    most = before = 0

    def done() -> bool:
        nonlocal most, before
        leased = bench.redis.zcard("rebound:1:{celery}:leased")
        # What has just ended is leased for some milliseconds more, but not over two looks.
        most, before = max(most, min(before, leased)), leased
        return len(words(bench, "done")) == 10

    wait_until(done, timeout=40, message=worker.tail)
    assert 1 <= most <= 3, "two run, and one may be on its way"
    assert Counter(word[1] for word in words(bench, "begun")).most_common(1)[0][1] == 1
    nothing_left(bench)


@pytest.mark.parametrize("pool", POOLS if FULL else ["threads"])
def test_cut_connections_lose_nothing(bench: Bench, pool: str):
    """What runs, and what waits in the pool, runs once and is settled over another connection; what the pool drops runs
    too, for it is given back. Remote control answers again."""
    worker = bench.worker(pool, TEST_ACKS_LATE="1", TEST_LEASE="10")
    bench.call("for n in range(10): work.apply_async((n, 0.3), countdown=1)")
    wait_until(lambda: len(words(bench, "begun")) >= 2, timeout=30)
    for _ in range(3 if FULL else 1):
        bench.redis.client_kill_filter(_type="normal", skipme=True)
        bench.redis.client_kill_filter(_type="pubsub", skipme=True)
        time.sleep(0.5)

    wait_until(lambda: len({word[1] for word in words(bench, "done")}) == 10, timeout=60, message=worker.tail)
    nothing_left(bench)
    begun = Counter(word[1] for word in words(bench, "begun"))
    assert begun == dict.fromkeys(map(str, range(10)), 1)
    assert worker.is_running
    wait_until(lambda: "pong" in bench.call("print(app.control.ping(timeout=1.5))"), timeout=20, message=worker.tail)


def test_task_that_is_cancelled_at_a_cut_connection_runs_again(bench: Bench):
    """Its lease is given back, not renewed for ever: Celery acknowledges no such task."""
    settings = conf(worker_cancel_long_running_tasks_on_connection_loss=True)
    worker = bench.worker("prefork", TEST_ACKS_LATE="1", TEST_CONF=settings)
    bench.call("work.apply_async((1, 4), countdown=0.5)")
    wait_until(lambda: len(words(bench, "begun")) == 1, timeout=30, message=worker.tail)

    bench.redis.client_kill_filter(_type="normal", skipme=True)

    wait_until(lambda: len(words(bench, "begun")) == 2, timeout=15, message=worker.tail)
    wait_until(lambda: len(words(bench, "done")) == 1, timeout=15, message=worker.tail)
    nothing_left(bench)


def test_task_that_is_done_within_the_soft_shutdown_does_not_run_again(bench: Bench):
    """worker_soft_shutdown_timeout: what is still at work when it is over is given back at once."""
    settings = conf(worker_soft_shutdown_timeout=4.0, task_ignore_result=True)
    worker = bench.worker("prefork", *ALONE, TEST_ACKS_LATE="1", TEST_CONF=settings)
    bench.call("work.apply_async((1, 2), countdown=0.5); work.apply_async((2, 30), countdown=0.5)")
    wait_until(lambda: len(words(bench, "begun")) == 2, timeout=30, message=worker.tail)

    worker.signal(signal.SIGQUIT)
    worker.wait(30)

    assert words(bench, "done") == [["done", "1"]]
    assert bench.redis.hlen("rebound:1:{celery}:messages") == 1, worker.tail()
    assert bench.redis.zcard("rebound:1:{celery}:leased") == 0, worker.tail()


@pytest.mark.parametrize("pool", POOLS if FULL else ["gevent"])
def test_worker_lives_through_a_full_and_a_demoted_redis(bench: Bench, pool: str):
    worker = bench.worker(pool, *ALONE, TEST_CONF=conf(task_ignore_result=True, result_backend=None))
    bench.call(
        "for n in range(20): add.apply_async((n, 0), countdown=3)"
    )  # tells Redis nothing, which it would not take
    bench.redis.config_set("maxmemory-policy", "noeviction")
    bench.redis.config_set("maxmemory", "1mb")
    wait_until(lambda: bench.redis.hlen("rebound:1:{celery}:messages") == 0, timeout=30, message=worker.tail)
    bench.redis.config_set("maxmemory", 0)
    bench.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    time.sleep(3)
    bench.redis.execute_command("REPLICAOF", "NO", "ONE")
    bench.call("note.apply_async((50, time.time() + 1), countdown=1)")
    wait_until(lambda: any(line.startswith("50 ") for line in bench.said()), timeout=40, message=worker.tail)
    assert worker.is_running


@pytest.mark.parametrize("pool", POOLS if FULL else ["threads"])
def test_worker_lives_through_what_redis_refuses_for_a_while(bench: Bench, pool: str):
    """Writes, because it has too few replicas; then every command, because somebody's script takes long."""
    worker = bench.worker(pool, *ALONE, TEST_CONF=conf(task_ignore_result=True, result_backend=None))
    bench.redis.config_set("min-replicas-to-write", 1)
    worker.wait_for_output("Cannot connect to", timeout=20)
    time.sleep(4)
    bench.redis.config_set("min-replicas-to-write", 0)
    bench.call("note.apply_async((1, time.time() + 1), countdown=1)")
    wait_until(lambda: any(line.startswith("1 ") for line in bench.said()), timeout=40, message=worker.tail)
    assert worker.output.count("Connection to broker lost") < 4, "it pauses between its tries"

    bench.redis.config_set("busy-reply-threshold", 100)
    endless = "local t = redis.call('TIME')[1] + 4 while redis.call('TIME')[1] + 0 < t do end"
    bench.redis.eval(endless, 0)
    bench.call("note.apply_async((2, time.time() + 1), countdown=1)")
    wait_until(lambda: any(line.startswith("2 ") for line in bench.said()), timeout=40, message=worker.tail)
    assert worker.is_running
