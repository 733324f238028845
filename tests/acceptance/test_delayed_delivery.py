"""Countdowns in real workers of every pool: on time, never early, once, and through stops, kills and restarts."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from rebound_celery.schedule.transport import celery_form as stored
from tests.scheduling import raw as raw_form
from tests.servers import RedisServer
from tests.torture.proxy import ConnectionFault, Proxy
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.processes import Process

POOLS = ["prefork", "threads", "solo", "gevent", "eventlet"]

#: REBOUND_TEST_FULL=1 sends every pool, with early and late acknowledgement, through everything: minutes more.
FULL = os.environ.get("REBOUND_TEST_FULL") == "1"
EVERY_WAY = [(pool, late) for pool in POOLS for late in ("0", "1")]


def ways(*some: tuple[str, str]) -> list[tuple[str, str]]:
    """Pools and acknowledgements to go through: those that differ most, or all."""
    return EVERY_WAY if FULL else list(some)


class Bench:
    """A Redis server with an append-only file, the app on it, and workers."""

    def __init__(
        self, server: RedisServer, run_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.server = server
        self.redis = redis.Redis.from_url(server.url, decode_responses=True)
        self._run = run_process
        self.workers: list[Process] = []
        self._environment = {"TEST_REDIS_URL": server.url}
        monkeypatch.setenv("TEST_REDIS_URL", server.url)

    def worker(self, pool: str, *options: str, **environment: str) -> Process:
        worker = self._run(
            "-m", "celery", "-A", "tests.acceptance.apps.scheduled", "worker", "-P", pool, "-c", "2", "-l", "INFO",
            *options, env={**self._environment, **environment},
        )  # fmt: skip
        self.workers.append(worker)
        worker.wait_for_output(" ready.", timeout=60)
        return worker

    def call(self, code: str, **environment: str) -> str:
        """Run code in a process that has the app; returns what it printed."""
        caller = self._run(
            "-c",
            f"import time\nfrom tests.acceptance.apps.scheduled import *\n{code}",
            env={**self._environment, **environment},
        )
        assert caller.wait(60) == 0, caller.tail()
        return caller.output

    def said(self) -> list[str]:
        return self.redis.lrange("said", 0, -1)

    def wait_said(self, count: int, timeout: float = 30) -> list[str]:
        wait_until(lambda: len(self.said()) >= count, timeout=timeout, message=lambda: f"{self.said()}")
        return self.said()

    def left(self) -> list[str]:
        """Keys of the schedule and of kombu that still hold a message."""
        kept = (":stats", ":claims", ":unconfirmed", ":next", ":claimed")
        keys = [key for key in self.redis.keys("*") if not key.endswith(kept)]
        return [key for key in keys if key.startswith("rebound:") or key in ("celery", "unacked")]


@pytest.fixture
def bench(tmp_path: Any, run_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with RedisServer(aof_dir=tmp_path / "aof") as server:
        bench = Bench(server, run_process, monkeypatch)
        yield bench
        # Before their Redis goes away: a worker without it takes long to stop.
        for worker in bench.workers:
            worker.stop()


def schedule(bench: Bench, count: int, first_s: float, step_s: float = 0.0) -> None:
    bench.call(
        f"for n in range({count}):\n"
        f"    wait = {first_s} + n * {step_s}\n"
        "    note.apply_async((n, time.time() + wait), countdown=wait)"
    )


@pytest.mark.parametrize("pool", POOLS)
def test_countdowns_run_once_on_time_and_never_early(bench: Bench, pool: str):
    bench.worker(pool)
    schedule(bench, 60, 2.0, 0.02)

    said = [tuple(map(int, line.split())) for line in bench.wait_said(60)]

    assert sorted(number for number, _ in said) == list(range(60))
    assert min(late for _, late in said) >= 0
    wait_until(lambda: not bench.left(), message=lambda: str(bench.left()))


@pytest.mark.parametrize(("pool", "late"), ways(("prefork", "1"), ("gevent", "0")))
def test_retry_keeps_its_id_and_waits(bench: Bench, pool: str, late: str):
    bench.worker(pool, TEST_ACKS_LATE=late)
    bench.call("twice.delay(time.time())")

    said = [line.split() for line in bench.wait_said(3)]

    assert len({identity for identity, _, _ in said}) == 1
    assert [retries for _, retries, _ in said] == ["0", "1", "2"]
    first, second, third = (float(at) for _, _, at in said)
    assert second - first >= 1
    assert third - second >= 1
    wait_until(lambda: not bench.left(), message=lambda: str(bench.left()))


def test_canvas_with_countdowns(bench: Bench):
    bench.worker("threads")

    printed = bench.call(
        "from celery import chain, chord, group\n"
        "a = chain(add.s(1, 2).set(countdown=1), add.s(5).set(countdown=1))()\n"
        "b = chord([add.s(n, n).set(countdown=0.5) for n in range(4)])(total.s().set(countdown=1))\n"
        "c = group(add.s(n, 1).set(countdown=0.5) for n in range(3))()\n"
        "print('result', a.get(timeout=20), b.get(timeout=20), c.get(timeout=20))"
    )

    assert "result 8 12 [1, 2, 3]" in printed


def test_task_sees_its_eta(bench: Bench):
    bench.worker("threads")

    printed = bench.call("print('eta', note.apply_async((0, time.time()), countdown=1).get(timeout=20))")

    assert "eta 20" in printed


def test_expired_while_waiting_is_revoked_and_leaves_nothing(bench: Bench):
    bench.worker("threads")

    printed = bench.call(
        "from celery.exceptions import TaskRevokedError\n"
        "try:\n"
        "    note.apply_async((0, 0), countdown=2, expires=1).get(timeout=20)\n"
        "except TaskRevokedError: print('revoked')"
    )

    assert "revoked" in printed
    assert bench.said() == []
    wait_until(lambda: not bench.left(), message=lambda: str(bench.left()))


def test_key_prefix_is_used_for_every_key(bench: Bench):
    bench.worker("prefork", TEST_PREFIX="shop:")
    bench.call("for n in range(10): note.apply_async((n, time.time() + 1), countdown=1)", TEST_PREFIX="shop:")
    waiting = [key for key in bench.redis.keys("*") if "rebound:" in key]

    assert waiting
    assert all(key.startswith("shop:") for key in waiting)
    assert len(bench.wait_said(10)) == 10


@pytest.mark.parametrize(("pool", "late"), ways(("prefork", "1"), ("threads", "0"), ("gevent", "1")))
def test_warm_stop_hands_back_what_has_not_begun(bench: Bench, pool: str, late: str):
    first = bench.worker(pool, TEST_ACKS_LATE=late)
    bench.call("for n in range(16): work.apply_async((n, 0.4), countdown=1)")
    wait_until(lambda: bench.said(), timeout=30)
    first.signal(signal.SIGTERM)
    first.wait(30)
    begun = {line.split()[1] for line in bench.said() if line.startswith("begun")}

    assert len(begun) < 16, "the stop came too late to show anything"
    handed_back = time.monotonic()
    bench.worker(pool, TEST_ACKS_LATE=late)
    wait_until(lambda: sum(line.startswith("done") for line in bench.said()) >= 16, timeout=40)

    assert time.monotonic() - handed_back < 28, "they waited for a lease of 30 s to run out"
    done = Counter(line for line in bench.said() if line.startswith("done"))
    assert len(done) == 16
    assert set(done.values()) == {1}
    wait_until(lambda: not bench.left(), message=lambda: str(bench.left()))


@pytest.mark.parametrize(("files", "size"), [(0, 0), (1100, 0), (0, 1_000_000)])
@pytest.mark.parametrize("what", ["stop", "lost connection"])
def test_task_that_a_child_has_got_and_not_begun_yet_runs_once(bench: Bench, what: str, files: int, size: int):
    """The worker does not know yet that it has begun; a busy machine's scheduler holds the child, for example.

    Of a large task, the child has got a part.
    """
    proxy = Proxy(bench.server.port, 1)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    first = bench.worker("prefork", "-c", "1", TEST_ACKS_LATE="1", TEST_REDIS_URL=url, TEST_OPEN_FILES=str(files))
    (child,) = map(int, Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split())
    os.kill(child, signal.SIGSTOP)
    bench.call(f"work.apply_async((0, 0.1), countdown=0.5, headers={{'pad': 'x' * {size}}})")
    first.wait_for_output("received")

    if what == "stop":
        first.signal(signal.SIGTERM)
        first.wait_for_output("Warm shutdown")
    else:
        proxy.begin(ConnectionFault("cut", 1.0))
        first.wait_for_output("Connection to broker lost")
    time.sleep(1)
    os.kill(child, signal.SIGCONT)
    if what == "stop":
        first.wait(30)
        bench.worker("prefork", TEST_ACKS_LATE="1")

    wait_until(lambda: not bench.left(), timeout=30, message=lambda: str(bench.left()))
    assert bench.said() == ["begun 0", "done 0"]


def test_children_that_end_after_each_task_and_lost_connections_repeat_nothing(bench: Bench):
    """A child's successor runs what the child had got."""
    proxy = Proxy(bench.server.port, 1)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    worker = bench.worker("prefork", "--max-tasks-per-child=1", TEST_ACKS_LATE="1", TEST_REDIS_URL=url)
    bench.call("for n in range(60): work.apply_async((n, 0.05), countdown=0.5)")
    for cuts in range(1, 6):
        wait_until(lambda cuts=cuts: len(bench.said()) > 16 * cuts, timeout=60)
        proxy.begin(ConnectionFault("cut", 1.0))
        worker.wait_for_output("Connection to broker lost", times=cuts)

    wait_until(lambda: not bench.left(), timeout=60, message=lambda: str(bench.left()))

    assert Counter(bench.said()).most_common(1)[0][1] == 1
    assert len(bench.said()) == 120


@pytest.mark.parametrize("pool", POOLS if FULL else ["prefork", "gevent"])
def test_killed_worker_loses_nothing(bench: Bench, pool: str):
    first = bench.worker(pool, TEST_ACKS_LATE="1", TEST_LEASE="3")
    bench.call("for n in range(20): work.apply_async((n, 0.3), countdown=1)")
    wait_until(lambda: any(line.startswith("begun") for line in bench.said()), timeout=30)
    first.kill()

    bench.worker(pool, TEST_ACKS_LATE="1", TEST_LEASE="3")
    wait_until(
        lambda: len({line for line in bench.said() if line.startswith("done")}) == 20,
        timeout=40,
        message=lambda: str(bench.said()),
    )
    wait_until(lambda: not bench.left(), message=lambda: str(bench.left()))


@pytest.mark.parametrize("pool", POOLS if FULL else ["prefork", "solo", "gevent"])
def test_lease_is_renewed_however_long_the_work_takes(bench: Bench, pool: str):
    bench.worker(pool, TEST_ACKS_LATE="1", TEST_LEASE="1")
    bench.call("work.apply_async((0, 4), countdown=1)")

    wait_until(lambda: "done 0" in bench.said(), timeout=30)

    assert Counter(bench.said()) == {"begun 0": 1, "done 0": 1}


@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_lease_is_renewed_though_a_task_stops_all_greenlets(bench: Bench, pool: str):
    """Another worker waits for it to run out. When the task has ended, the first one goes on, and stops well."""
    first = bench.worker(pool, TEST_LEASE="2", TEST_ACKS_LATE="1")
    bench.call("compute.apply_async((1, 6), countdown=0.5)")
    wait_until(lambda: bench.said() == ["begun 1"], timeout=20)
    second = bench.worker(pool, TEST_LEASE="2", TEST_ACKS_LATE="1")

    wait_until(lambda: not bench.left(), timeout=30, message=lambda: str(bench.left()))

    assert bench.said() == ["begun 1", "done 1"]
    schedule(bench, 4, 0.5)
    bench.wait_said(6)
    assert (first.stop(), second.stop()) == (0, 0)


@pytest.mark.parametrize(("pool", "late"), ways(("prefork", "1"), ("threads", "1"), ("eventlet", "0")))
def test_restarted_redis_loses_nothing_and_the_worker_goes_on(bench: Bench, pool: str, late: str):
    worker = bench.worker(pool, TEST_ACKS_LATE=late)
    schedule(bench, 100, 4.0, 0.02)
    bench.call("for n in range(4): work.delay(n, 1.5)")  # held unacknowledged over the restart
    wait_until(lambda: any(line.startswith("begun") for line in bench.said()), timeout=30)
    bench.server.restart()

    wait_until(
        lambda: len({line.split()[0] for line in bench.said() if line[0].isdigit()}) == 100,
        timeout=60,
        message=lambda: f"{len(bench.said())} {worker.tail()}",
    )

    assert worker.is_running
    ran = Counter(line.split()[0] for line in bench.said() if line[0].isdigit())
    assert set(ran.values()) == {1}


@pytest.mark.parametrize("pool", POOLS if FULL else ["prefork", "gevent"])
def test_worker_is_back_soon_after_a_long_outage(bench: Bench, pool: str):
    """Redis comes back when a pause of Celery's of eight seconds has just begun."""
    worker = bench.worker(pool)
    schedule(bench, 1, 1.0)
    bench.wait_said(1)
    schedule(bench, 1, 5.0)
    bench.server.stop()
    worker.wait_for_output("Trying again in 8.00 seconds", timeout=40)

    began = time.monotonic()
    bench.server.start()
    bench.wait_said(2, timeout=20)

    assert time.monotonic() - began < 5


def test_two_workers_share_what_is_due(bench: Bench):
    bench.worker("threads", "-n", "a@%h")
    bench.worker("threads", "-n", "b@%h")
    bench.call("for n in range(200): work.apply_async((n, 0.02), countdown=2)")

    wait_until(lambda: sum(line.startswith("done") for line in bench.said()) >= 200, timeout=40)

    assert Counter(bench.said()).most_common(1)[0][1] == 1


def test_countdown_of_an_older_publisher_waits_in_the_schedule_and_is_not_held(bench: Bench):
    bench.worker("threads")
    bench.call("note.apply_async((0, time.time() + 4), countdown=4)", TEST_STOCK="1")

    wait_until(lambda: bench.redis.hlen("rebound:1:{celery}:messages") == 1)
    number, late = bench.wait_said(1)[0].split()

    assert (number, int(late) >= 0) == ("0", True)


def test_broken_stored_message_stops_no_other(bench: Bench):
    bench.call("for n in range(20): note.apply_async((n, time.time() + 4), countdown=4)")
    ids = bench.redis.hkeys("rebound:1:{celery}:messages")
    raw = redis.Redis.from_url(bench.server.url)
    raw.hset("rebound:1:{celery}:messages", ids[0], raw_form(stored.VERSION + b"garbage that is long enough"))
    later = raw_form(b"\x7fwhat a later version wrote")
    raw.hset("rebound:1:{celery}:messages", ids[1], later)
    worker = bench.worker("threads")

    assert len(bench.wait_said(18)) == 18
    worker.wait_for_output("set aside")
    worker.wait_for_output("left alone")
    assert raw.hget("rebound:1:{celery}:messages", ids[1]) == later
    assert raw.hkeys("rebound:1:{celery}:dead") == [ids[0].encode()]


def test_task_that_kills_its_process_each_time_is_dead_after_three(bench: Bench):
    worker = bench.worker("prefork")

    printed = bench.call(
        "result = die.apply_async((1,), countdown=0.5)\n"
        "deadline = time.time() + 40\n"
        "while not result.ready() and time.time() < deadline: time.sleep(0.1)\n"
        "print(result.state, result.result)\n"
    )

    assert "FAILURE 3 workers were lost" in printed, worker.tail()
    assert bench.said() == ["begun 1"] * 3
    assert [key for key in bench.left() if ":dead" not in key] == []


def test_revoked_task_never_runs_though_no_worker_heard_of_it(bench: Bench):
    bench.call(
        "from celery.result import AsyncResult\n"
        "kept = note.apply_async((1, time.time() + 2), countdown=2)\n"
        "gone = note.apply_async((2, time.time() + 2), countdown=2)\n"
        "silent = note.apply_async((3, time.time() + 2), countdown=2, ignore_result=True)\n"
        "gone.revoke()\n"
        "app.control.revoke([silent.id, 'no-such-task'])\n"
        "log.set('gone', gone.id)"
    )

    bench.worker("prefork")
    bench.wait_said(1)
    wait_until(lambda: not bench.left(), message=lambda: str(bench.left()))

    assert [line.split()[0] for line in bench.said()] == ["1"]
    printed = bench.call("result = app.AsyncResult(log.get('gone').decode())\nprint(result.state)")
    assert "REVOKED" in printed


def test_revoking_one_part_of_a_chord_ends_the_chord(bench: Bench):
    bench.worker("threads")

    printed = bench.call(
        "from celery import chord\n"
        "result = chord([add.s(1, 1).set(countdown=0.1), add.s(2, 2).set(countdown=60)])(total.s())\n"
        "time.sleep(1)\n"
        "result.parent.results[1].revoke()\n"
        "deadline = time.time() + 20\n"
        "while not result.ready() and time.time() < deadline: time.sleep(0.1)\n"
        "print(result.state, result.result)"
    )

    assert "FAILURE" in printed
    assert "TaskRevokedError" in printed


def test_inspect_shows_what_waits_and_a_worker_revokes_for_others(bench: Bench):
    bench.worker("prefork")

    printed = bench.call(
        "from celery import Celery\n"
        "one = note.apply_async((7, 0), countdown=60)\n"
        "two = note.apply_async((8, 0), countdown=50)\n"
        "def waiting(app):\n"
        "    (answer,) = app.control.inspect(timeout=5).scheduled().values()\n"
        "    return [entry['request']['id'] for entry in answer]\n"
        "print('both', waiting(app) == [two.id, one.id])\n"
        "stranger = Celery(broker=URL)\n"
        "stranger.control.revoke(two.id, reply=True, timeout=5)\n"
        "print('one', waiting(stranger) == [one.id])\n"
        "entry = list(app.control.inspect(timeout=5).scheduled().values())[0][0]\n"
        "print(entry['request']['name'], entry['request']['args'], entry['eta'])\n"
        "print('two is', two.state)"
    )

    assert "both True" in printed
    assert "one True" in printed
    assert "scheduled.note [7, 0] 20" in printed
    assert "two is REVOKED" in printed


def test_worker_whose_connections_are_dead_without_a_word_goes_on_over_new_ones_and_ends(bench: Bench):
    """A firewall has forgotten them, for example. kombu's commands have no time-out of their own."""
    proxy = Proxy(bench.server.port, 1)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    worker = bench.worker("threads", TEST_REDIS_URL=url, TEST_CONF='{"task_ignore_result": true}')

    proxy.abandon()
    schedule(bench, 1, 1.0)

    assert len(bench.wait_said(1, timeout=40)) == 1
    # The task's own connection has no time-out: without its answer the task would never end.
    worker.wait_for_output("succeeded")
    proxy.abandon()
    assert worker.stop(100) == 0
