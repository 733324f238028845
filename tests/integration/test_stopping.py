"""A worker hears of every way in which it is stopped, and its process is no stopping worker afterwards."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from rebound_celery import Rebound
from rebound_celery.stopping import is_stopping
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("stopped", broker=redis_url, set_as_current=False)
    app.conf.worker_hijack_root_logger = False
    Rebound(app)
    yield app
    close_redis_connections()


def test_tasks_hear_of_a_stop_that_sends_no_signal(app: Celery) -> None:
    heard: list[bool] = []
    begun = threading.Event()

    @app.task(name="wait", shared=False)
    def wait() -> None:
        begun.set()
        wait_until(is_stopping, timeout=10)
        heard.append(True)

    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, shutdown_timeout=20) as worker:
        wait.delay()
        assert begun.wait(20)
        assert not is_stopping()
        worker.stop()
    assert heard == [True]
    assert not is_stopping(), "a later worker of this process, or a task that runs without one, is not stopping"


def test_a_process_whose_worker_was_ended_at_once_is_not_stopping(app: Celery) -> None:
    with running_worker(app):
        assert not is_stopping()
    assert not is_stopping()
