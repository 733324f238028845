"""No call fails because Redis has lost its scripts or its connections, as long as Redis answers: whoever calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from celery import Celery

from rebound_celery import Rebound
from rebound_celery.schedule.port import DeadEntry, open_schedule
from rebound_celery.schedule.store.claims import DONE, RELEASE, ClaimId, End
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.worker.installation import install_schedule
from tests.acceptance.apps.worker import close_redis_connections
from tests.scheduling import entry, now_ms
from tests.servers import RedisServer, consuming, send_due
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Far from any other worker's name.
CLAIM = ClaimId("one", 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    place: Path = tmp_path_factory.mktemp("lost-scripts")
    with RedisServer(aof_dir=place) as server:
        yield server
        close_redis_connections()


def flush(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as admin:
        admin.script_flush()


def kill_connections(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as admin:
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def both(server: RedisServer) -> None:
    flush(server)
    kill_connections(server)


def restart(server: RedisServer) -> None:
    server.stop()
    server.start()


WAYS = [flush, kill_connections, both, restart]


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def lose(request: pytest.FixtureRequest, server: RedisServer) -> Callable[[], None]:
    def act() -> None:
        request.param(server)

    return act


def test_every_script_of_the_store(server: RedisServer, lose: Callable[[], None]):
    with redis.Redis.from_url(server.url, single_connection_client=True) as client:
        client.flushdb()
        store = Store(client, QueueKeys("", "celery", (0, 3, 6, 9)))
        store.ping()

        lose()
        assert store.enqueue([entry(name, now_ms() - 10) for name in "abcdef"]) == 6
        lose()
        claim = store.claim(CLAIM, 3, 60_000, 60_000, ["0"])
        assert len(claim.messages) == 3
        lose()
        assert store.confirm(CLAIM)
        first, second, third = (claimed.id for claimed in claim.messages)
        lose()
        assert store.renew([(first, CLAIM.token)], 60_000) == 1
        lose()
        assert store.settle([End(first, CLAIM.token, DONE), End(second, CLAIM.token, RELEASE, "0")]) == 2
        lose()
        assert store.settle([End(third, CLAIM.token, "no use", "0")]) == 1
        lose()
        assert store.reschedule(now_ms() + 50_000, second) == 1
        lose()
        assert store.run_now(second) == 1
        lose()
        assert len(store.cancel(second)) == 1
        lose()
        store.pause("", now_ms() + 50_000)
        lose()
        store.set_rate("", 5)
        lose()
        store.resume("")
        lose()
        store.keep_dead([DeadEntry("z", "old", b"\x01")])
        lose()
        assert store.remove_dead("z", third) == 2
        lose()
        assert store.purge() == 3


def test_many_calls_at_once_of_which_some_are_sent_when_the_connection_is_lost(
    server: RedisServer, lose: Callable[[], None]
):
    with redis.Redis.from_url(server.url) as client:
        client.flushdb()
        store = Store(client, QueueKeys("", "celery", (0, 3, 6, 9)))

        def entries() -> Iterator[object]:
            for number in range(1_700):
                if number == 1_200:
                    lose()
                yield entry(f"{number}", now_ms())

        store.enqueue(entries())  # type: ignore[arg-type]

        assert store.count() == 1_700


def test_whoever_schedules_retries_and_reads_dead_letters(server: RedisServer, lose: Callable[[], None]):
    with redis.Redis.from_url(server.url) as client:
        client.flushdb()
    with Celery("lost", broker=server.url, set_as_current=False, task_ignore_result=True) as app:
        rebound = Rebound(app)
        rebound.schedule_retry("kafka://orders", b"x", id="first", base_delay=600)
        lose()
        rebound.schedule_retry("kafka://orders", b"x", id="second", base_delay=600)
        lose()
        outcomes = rebound.schedule_retries([{"destination": "kafka://orders", "base_delay": 600}] * 3)
        assert not any(isinstance(outcome, Exception) for outcome in outcomes)
        with open_schedule(app, "rebound") as schedule:
            schedule.keep_dead([DeadEntry("a", "old", b"\x01")])
            lose()
            assert schedule.remove_dead("a") == 1
            assert schedule.counts().waiting == 5
        lose()
        app.control.revoke("second")
        with open_schedule(app, "rebound") as schedule:
            assert schedule.counts().waiting == 4
        close_redis_connections()


def test_whoever_publishes_claims_and_acknowledges(server: RedisServer, lose: Callable[[], None]):
    with redis.Redis.from_url(server.url) as client:
        client.flushdb()
        store = Store(client, QueueKeys("", "celery", (0, 3, 6, 9)))
        with Celery("lost", broker=server.url, set_as_current=False, task_ignore_result=True) as app:
            install_schedule(app, {"lease": 1.0})
            app.send_task("t", countdown=600)
            lose()
            app.send_task("t", countdown=600)
            with consuming(app, lambda _message: flush(server)) as consumer:
                send_due(app, store, 1, 2)
                consumer.take(2)
                wait_until(lambda: store.count() == 2)
            close_redis_connections()
