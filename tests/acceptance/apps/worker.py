"""A worker in the test's own process: it starts quickly, and its log is the test's log."""

from __future__ import annotations

import gc
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from celery.contrib.testing.worker import start_worker
from redis.connection import AbstractConnection

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


@contextmanager
def running_worker(app: Celery, pool: str = "threads", concurrency: int = 4) -> Iterator[None]:
    """A worker that consumes all of the app's queues while the context lasts; it ends as on SIGTERM."""
    app.conf.worker_hijack_root_logger = False  # pytest's own handlers are there
    options = {"pool": pool, "concurrency": concurrency, "loglevel": "info", "shutdown_timeout": 20}
    level = logging.root.level
    try:
        with start_worker(app, perform_ping_check=False, **options):
            yield
    finally:
        logging.root.setLevel(level)
        close_redis_connections()


def close_redis_connections() -> None:
    """Close what apps and their result backends leave open when a test drops them.

    As garbage, a connection closes its socket only if it happens to be collected before it.
    """
    for thing in gc.get_objects():
        if issubclass(type(thing), AbstractConnection):  # isinstance() would wake Celery's proxies
            thing.disconnect()
