"""The app of the pytest benchmarks, on a real Redis: REBOUND_TEST_REDIS, the system's, or embedded.

pytest benchmarks                              measures
pytest benchmarks -k parallel                  one of them
pytest benchmarks --benchmark-disable -q       runs each once, to see that it still works
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from rebound_celery import Rebound
from tests.servers import ExternalRedis, local_redis

QUEUE = "rebound-benchmarks"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    given = os.environ.get("REBOUND_TEST_REDIS")
    if given:
        yield ExternalRedis(given).url
        return
    with local_redis() as server:
        yield server.url


@pytest.fixture(scope="session")
def rebound(redis_url: str) -> Rebound:
    """An app that has stored its first task, so that its connections and templates exist."""
    app = Celery("benchmarks", broker=redis_url, set_as_current=False)
    # Without this, each call would publish an event for Flower as well; scheduling.py measures both.
    app.conf.task_send_sent_event = False
    rebound = Rebound(app, queue=QUEUE)
    rebound.schedule_retry("kafka://orders", b"first")
    return rebound


@pytest.fixture(autouse=True)
def _empty_queue(redis_url: str) -> Iterator[None]:
    """Empty the queue, because the tasks of the last benchmark would change the next one."""
    yield
    with redis.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(f"*{QUEUE}*"):
            client.delete(key)
