"""The thread that renews and settles leases: what it says of Redis, and how it ends with its process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.processes import Process

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
