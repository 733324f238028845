"""The calls in the product's source whose effect other processes see. Each new call needs its own steps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import rebound_celery
from tests.acceptance.crash_points.calls import (
    COMMIT,
    COMMITTED,
    LAST_COMMIT,
    LET_GO,
    POLL,
    REQUEST,
    REVOKED,
    RUN_SCRIPT,
    SEND,
    SETTLE_LATER,
    TELL_RESULT,
)

ROOT = Path(rebound_celery.__file__).parent

#: The modules on a message's path. Modules with commands for people and tools are not among them.
FILES = (
    "app.py",
    "scheduling.py",
    "consumer/*.py",
    "delivery/*.py",
    "destinations/*.py",
    "destinations/kafka/kafka_python.py",
    "schedule/transport/leases.py",
    "schedule/transport/claimed.py",
    "schedule/transport/claimer.py",
)

#: The names of the methods that reach Kafka, Redis or a receiver.
VERBS = {"poll", "commit", "commit_async", "store", "send", "request", "execute"}
VERBS |= {"mark_as_done", "mark_as_failure", "mark_as_retry"}
VERBS |= {"publish", "publish_messages", "keep_dead", "produce", "enqueue", "claim", "confirm", "settle", "renew"}
VERBS |= {"publish_unique", "enqueue_unique", "report_health"}
#: The effect is in the function that is called back.
VERBS |= {"add_done_callback"}

#: file and call -> the call at which the kills before and after it happen.
EFFECTS = {
    "app.py: self._publisher.publish_messages": RUN_SCRIPT,
    "consumer/commits.py: self._consumer.commit": LAST_COMMIT,
    "consumer/commits.py: self._consumer.commit_async": COMMIT,
    "consumer/polling.py: self._consumer.poll": POLL,
    "consumer/commits.py: self._offset_tracker.confirm": COMMITTED,
    "consumer/rebalance.py: self._consumer.commit_async": REVOKED,
    "consumer/rebalance.py: self._offset_tracker.confirm": COMMITTED,
    "consumer/retry_writer.py: self._scheduler.store": RUN_SCRIPT,
    "delivery/batch.py: outcome.outcome.add_done_callback": SETTLE_LATER,
    # It ends a span of a trace, at the same moment.
    "delivery/spans.py: outcome.outcome.add_done_callback": SETTLE_LATER,
    "delivery/batch.py: self.store": RUN_SCRIPT,
    "delivery/publisher.py: schedule.enqueue": RUN_SCRIPT,
    "delivery/publisher.py: schedule.enqueue_unique": RUN_SCRIPT,
    "scheduling.py: self._publisher.publish_messages": RUN_SCRIPT,
    "scheduling.py: self._publisher.publish_unique": RUN_SCRIPT,
    "delivery/publisher.py: self.publish": RUN_SCRIPT,
    "delivery/results.py: backend.mark_as_done": TELL_RESULT,
    "delivery/results.py: backend.mark_as_failure": TELL_RESULT,
    "delivery/results.py: backend.mark_as_retry": TELL_RESULT,
    "delivery/reading.py: schedule.keep_dead": RUN_SCRIPT,
    "delivery/reading.py: schedule.enqueue": RUN_SCRIPT,
    "delivery/task.py: self.destinations.by_kind['dead-set'].send": RUN_SCRIPT,
    "delivery/task.py: self.publisher().publish": RUN_SCRIPT,
    "delivery/sending.py: destinations[kind].send": SEND,
    "destinations/dead_set.py: schedule.keep_dead": RUN_SCRIPT,
    "destinations/deadline.py: self._socket.send": REQUEST,
    "destinations/http.py: pool.request": REQUEST,
    "destinations/http_health.py: outcome.outcome.add_done_callback": RUN_SCRIPT,
    "destinations/http_health.py: schedule.report_health": RUN_SCRIPT,
    "destinations/http_health.py: self._inner.send": REQUEST,
    "destinations/deadline.py: super().request": REQUEST,
    "destinations/kafka/kafka_python.py: self._producer.send": SEND,
    "schedule/transport/claimer.py: queue.store.claim": RUN_SCRIPT,
    "schedule/transport/claimer.py: self.claim": RUN_SCRIPT,
    "schedule/transport/claimer.py: store.claim": RUN_SCRIPT,
    "schedule/transport/claimer.py: store.confirm": RUN_SCRIPT,
    "schedule/transport/claimed.py: store.settle": RUN_SCRIPT,
    "schedule/transport/leases.py: store.renew": LET_GO,
    "schedule/transport/leases.py: store.over(client).settle": RUN_SCRIPT,
    "schedule/transport/leases.py: store.over(client).renew": RUN_SCRIPT,
}

#: Scripts on a message's path. The other scripts are for people and tools.
SCRIPTS = {"keep_dead", "enqueue", "claim", "confirm", "settle", "renew", "health"}


def calls() -> Iterator[str]:
    """Yield the calls of the product, in the form of the keys of EFFECTS."""
    for path in sorted(path for pattern in FILES for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in VERBS:
                call = ast.unparse(node.func)
                # The process itself receives Celery's signals. Nothing depends on Celery's events.
                if not call.startswith(("signals.", "eventer.")):
                    yield f"{path.relative_to(ROOT)}: {call}"
