"""The thread that renews and settles leases: what it says of Redis, and how it ends with its process."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from rebound_celery.embedded import free_port
from rebound_celery.schedule.store.claims import DONE
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.values import Claimed
from rebound_celery.schedule.transport.leases import Leases
from tests.processes import Process
from tests.waiting import wait_until

#: The last leases end with the process, so that threads are about to settle them. Several threads, to see more faults.
WORKER = """
import sys
library, url = sys.argv[1:]
if library == "gevent":
    from gevent import monkey
    monkey.patch_all()
if library == "eventlet":
    import eventlet
    eventlet.monkey_patch()
import time
from redis import Redis
from rebound_celery.schedule.store.claims import DONE
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.values import Claimed
from rebound_celery.schedule.transport.leases import Leases
from rebound_celery.schedule.transport.process_leases import leases_of

several = [leases_of(n, lambda: Leases(Redis.from_url(url), Redis.from_url(url), 60_000)) for n in range(8)]
for number in range(30):
    for leases in several:
        store = leases.store_of(QueueKeys("", "rebound", (0,)))
        (tag,) = leases.hold(store, [(Claimed(str(number), b"", "lane", 0, 0), "token", "task")])
        leases.end(tag, DONE)
    time.sleep(0.002)
print("the process ends", flush=True)
"""


@pytest.mark.parametrize("library", ["gevent", "eventlet", "threads"])
def test_a_process_that_ends_while_its_thread_settles_leases_ends_well(
    library: str, redis_url: str, run_process: Callable[..., Process]
) -> None:
    """A thread that outlives the interpreter crashes it under gevent and eventlet."""
    for _ in range(3):
        process = run_process("-W", "ignore", "-c", WORKER, library, redis_url)

        assert process.wait() == 0, process.tail()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def leases(silent_port: int) -> Iterator[Leases]:
    """Leases whose thread finds nobody at its address, while commands of others get no answer."""
    retry = Retry(NoBackoff(), 0)
    with (
        Redis("127.0.0.1", silent_port, socket_timeout=2, retry=retry) as client,
        Redis("127.0.0.1", free_port(), socket_timeout=2, retry=retry) as thread_client,
    ):
        leases = Leases(client, thread_client, 60_000)
        yield leases
        leases.thread.ask_to_end()
        assert leases.thread.wait_for_end(5)


def test_redis_is_said_to_be_back_only_when_it_is(leases: Leases, caplog: pytest.LogCaptureFixture) -> None:
    """The thread has nothing to ask Redis for while somebody else sends the ends."""
    caplog.set_level(logging.INFO)
    store = leases.store_of(QueueKeys("", "rebound", (0,)))
    (tag,) = leases.hold(store, [(Claimed("m", b"", "lane", 0, 0), "token", "task")])
    leases.end(tag, DONE)
    wait_until(lambda: "leases cannot be settled" in caplog.text)

    with pytest.raises((RedisError, OSError)):
        leases.flush()

    assert "Redis is back" not in caplog.text
