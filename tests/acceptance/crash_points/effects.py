"""Every call of the product that others see the effect of, read from its source: a new one needs its steps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import rebound_celery
from tests.acceptance.crash_points.calls import (
    COMMIT,
    KEEP,
    LAST_COMMIT,
    LET_GO,
    POLL,
    REQUEST,
    REVOKED,
    RUN_SCRIPT,
    SEND,
    TELL_RESULT,
)

ROOT = Path(rebound_celery.__file__).parent

#: Where a message is on its way; what people and tools do about the schedule is not.
FILES = ("app.py", "consumer/*.py", "delivery/*.py", "destinations/*.py", "schedule/leases.py", "schedule/claimer.py")

#: How the methods are called that reach Kafka, Redis or a receiver.
VERBS = {"poll", "commit", "commit_async", "store", "publish_tasks", "send", "request", "execute"}
VERBS |= {"mark_as_done", "mark_as_retry"}
VERBS |= {"publish", "enqueue", "claim", "settle", "renew"}

#: file and call -> what the kills around it are put to.
EFFECTS = {
    "app.py: self._publisher.publish": RUN_SCRIPT,
    "consumer/retry_writer.py: self._scheduler.store": RUN_SCRIPT,
    "consumer/commits.py: self._consumer.commit": LAST_COMMIT,
    "consumer/commits.py: self._consumer.commit_async": COMMIT,
    "consumer/loop.py: self._consumer.poll": POLL,
    "consumer/rebalance.py: self._consumer.commit_async": REVOKED,
    "delivery/batch.py: destinations[kind].send": SEND,
    "delivery/publisher.py: self.publish_tasks": RUN_SCRIPT,
    "delivery/task.py: backend.mark_as_done": TELL_RESULT,
    "delivery/task.py: backend.mark_as_retry": TELL_RESULT,
    "delivery/task.py: self.destinations.get().dead_set.send": KEEP,
    "delivery/task.py: self.publisher().publish_tasks": RUN_SCRIPT,
    "destinations/dead_set.py: pipe.execute": KEEP,
    "destinations/http.py: self._pool.request": REQUEST,
    "destinations/kafka.py: producer.send": SEND,
    "schedule/claimer.py: self.claim": RUN_SCRIPT,
    "schedule/claimer.py: store.claim": RUN_SCRIPT,
    "schedule/claimer.py: store.settle": RUN_SCRIPT,
    "schedule/leases.py: store.over(self._thread_client).renew": RUN_SCRIPT,
    "schedule/leases.py: lease.store.renew": LET_GO,
    "schedule/leases.py: store.over(client).settle": RUN_SCRIPT,
}

#: Scripts that a message meets on its way; the others are for people and tools.
SCRIPTS = {"enqueue", "claim", "settle", "renew"}


def calls() -> Iterator[str]:
    """The calls of the product as EFFECTS names them."""
    for path in sorted(path for pattern in FILES for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS:
                call = ast.unparse(node.func)
                if not call.startswith("signals."):  # Celery's, heard in the same process
                    yield f"{path.relative_to(ROOT)}: {call}"
