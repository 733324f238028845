"""A worker that has few file descriptors is no lost worker: its messages wait, and none becomes a dead letter."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from rebound_celery import Rebound
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from tests.acceptance.apps.worker import close_redis_connections
from tests.integration.test_http_answers import Receiver, say, whole
from tests.processes import Process
from tests.waiting import wait_until

MESSAGES = 60
#: After so many leases without a renewal each message would be a dead letter.
LEASE_S = 1
LEASES = 8


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    yield Rebound(Celery("web", broker=redis_url, set_as_current=False))
    close_redis_connections()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    receiver.answer = say(whole(200, b""))
    yield receiver
    receiver.close()


def limit_descriptors(pid: int, left: int | None) -> None:
    """Let a process open so many more files and sockets; None for as many as this process may."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if left is not None:
        highest = max(int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir())
        limits = highest + 1 + left, limits[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("left", [0, 1, 4])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_without_file_descriptors_keeps_all_messages_and_counts_no_loss(
    pool: str, left: int, rebound: Rebound, redis_url: str, receiver: Receiver, run_process: Callable[..., Process]
) -> None:
    worker = run_process(
        *("-m", "celery", "-A", "tests.acceptance.apps.orders", "worker", "-P", pool, "-c", "2", "--loglevel=INFO"),
        env={"ORDERS_REDIS": redis_url, "REBOUND_LEASE": str(LEASE_S)},
    )
    worker.wait_for_output(" ready.", timeout=60)
    with Redis.from_url(redis_url) as redis:
        store = Store(redis, QueueKeys("", "rebound", (0, 3, 6, 9)))

        limit_descriptors(worker.pid, left)
        rebound.schedule_retries(
            [{"destination": receiver.url, "id": f"order-{n}", "delay": 0, "max_retries": 0} for n in range(MESSAGES)]
        )
        time.sleep(LEASES * LEASE_S)
        limit_descriptors(worker.pid, None)

        wait_until(lambda: redis.hlen(store.keys.messages) == 0, timeout=60, message=worker.tail)
        assert store.counts().dead == 0, worker.tail()
        assert store.stats().get("ran_out", 0) == 0
    assert receiver.requests >= MESSAGES
