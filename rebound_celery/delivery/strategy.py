"""How a worker takes delivery tasks: many at a time, as one job of its pool, each still a Celery task of its own.

Celery asks a task's `Strategy` what to do with each message received. Celery's own makes a pool job of each, which
costs more than delivering it. This one gathers the messages that arrive together.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from celery import signals
from celery.exceptions import InvalidTaskError
from celery.utils.imports import symbol_by_name
from celery.utils.time import timezone
from celery.worker.request import create_request_cls
from celery.worker.state import task_ready, task_reserved
from celery.worker.strategy import default
from kombu.asynchronous.timer import to_timestamp

from ..stopping import is_stopping
from .batch import End
from .events import TaskEvents
from .job import Job, retries_of

#: The header that tells a message's kind of destination before it is decoded: slow kinds must not hold quick ones.
KIND_HEADER = "rebound-kind"
#: The header in which the schedule says how many workers were lost with this message.
LOSSES_HEADER = "rebound-losses"

_SLOW_KINDS = frozenset({"http"})

#: How many messages make a job at most. A slow kind's are all under way at once, so a job of theirs is smaller.
BATCH_SIZE = 250
_SLOW_BATCH_SIZE = 64

#: Seconds that messages are gathered where the pool has no event loop that says when a burst has ended.
_GATHER_S = 0.005

logger = logging.getLogger(__name__)


class Gatherer:
    """Gathers requests of one task in one worker and gives them to its pool.

    Args:
        task: the delivery task.
        consumer: the worker's consumer.
    """

    def __init__(self, task: Any, consumer: Any) -> None:
        self._task = task
        self._consumer = consumer
        self._events = TaskEvents(consumer.event_dispatcher, task)
        self._unannounced: list[Any] = []
        self._queues: dict[str, deque[Any]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._quick_jobs = 0
        self._slow_jobs = 0
        self._armed = False

    def add(self, request: Any, kind: str) -> None:
        """Take a request; it runs with those that arrive together with it."""
        with self._lock:
            self._unannounced.append(request)
        self._queues["slow" if kind in _SLOW_KINDS else "quick"].append(request)
        if not self._armed:
            self._armed = True
            hub = self._consumer.hub
            if hub is not None:
                # A timer of no delay runs in the same turn of the loop, right after the claim that hands over.
                hub.call_later(0, self.flush)
            else:
                self._consumer.timer.call_after(_GATHER_S, self.flush)

    def retire(self) -> None:
        """Another takes its place, for the worker has another connection now.

        Prefork, the pool with a semaphore, has dropped what it had not begun, and the broker gives away again what is
        still here. With any other pool all of it is still this worker's.
        """
        if self._consumer.pool.uses_semaphore:
            self._queues.clear()

    def flush(self) -> None:
        """Give what has been gathered to the pool, as far as it has use for more."""
        self._armed = False
        self._announce()
        while (job := self._next_job()) is not None:
            self._run(*job)

    def _announce(self) -> None:
        with self._lock:
            arrived, self._unannounced = self._unannounced, []
        if arrived:
            self._events.tell("task-received", map(_as_event, arrived))

    def _next_job(self) -> tuple[list[Any], int, Callable[[], None]] | None:
        if is_stopping():
            # What has not begun is given back when the worker's connection closes. gevent and eventlet would otherwise
            # wait until all of it is delivered.
            return None
        quick, slow = self._queues["quick"], self._queues["slow"]
        processes = self._consumer.pool.num_processes
        # Callbacks of a threads pool come from its threads. The pool is not called under the lock: it may block.
        with self._lock:
            # One job more than there are processes: each finds its next at once, and what comes meanwhile makes that
            # one larger. Jobs that wait in the pool stay as small as they were.
            if quick and self._quick_jobs <= processes:
                self._quick_jobs += 1
                return _take(quick, BATCH_SIZE), 0, self._quick_job_ended
            # One process stays free for what is quick, where there are several.
            if slow and self._slow_jobs < max(1, processes - 1):
                self._slow_jobs += 1
                return _take(slow, _SLOW_BATCH_SIZE), 0, self._slow_job_ended
        return None

    def _quick_job_ended(self) -> None:
        with self._lock:
            self._quick_jobs -= 1
        self.flush()

    def _slow_job_ended(self) -> None:
        with self._lock:
            self._slow_jobs -= 1
        self.flush()

    def _run(self, requests: Sequence[Any], losses: int = 0, then: Callable[[], None] | None = None) -> None:
        live = [request for request in requests if not request.revoked()]
        if not live:
            if then is not None:
                then()
            return
        Job(self._task, live, losses, self._run, then, self._events).start(self._consumer.pool)


def strategy(task: Any, app: Any, consumer: Any) -> Callable[..., Any]:
    """Celery's `Task.Strategy` for the delivery task."""
    eventer = consumer.event_dispatcher
    request_class = create_request_cls(
        symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, eventer, app=app
    )
    earlier = getattr(consumer.strategies.get(task.name), "gatherer", None)
    if earlier is not None:
        earlier.retire()
    gatherer = Gatherer(task, consumer)
    one_by_one = default(task, app, consumer)
    utc = app.uses_utc_timezone()

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **kwargs: Any) -> Any:
        if body is not None:
            # Task protocol 1: rebound never sends it, but somebody may.
            return one_by_one(message, body, ack, reject, callbacks, **kwargs)
        try:
            request = request_class(
                message,
                on_ack=ack,
                on_reject=reject,
                app=app,
                hostname=consumer.hostname,
                eventer=eventer,
                task=task,
                connection_errors=consumer.connection_errors,
                # It is decoded where it is delivered. What Celery shows of a task's arguments is their text.
                body=((message.headers.get("argsrepr"),), {}, {}),
                headers=message.headers,
                decoded=True,
                utc=utc,
            )
        except InvalidTaskError as error:
            # Celery would drop it.
            end, _ = task.set_aside(message.headers.get("id"), message.body, error)
            if end == End.DONE:
                message.ack_log_error(logger, consumer.connection_errors)
            else:
                message.reject_log_error(logger, consumer.connection_errors, requeue=True)
            return None
        if request.revoked():
            return None
        signals.task_received.send(sender=consumer, request=request)
        task_reserved(request)
        for callback in callbacks or ():
            callback(request)
        if (message.headers.get(LOSSES_HEADER) or 0) >= task.max_worker_losses and task.give_up(request):
            task_ready(request)
            request.acknowledge()
            return None
        kind = message.headers.get(KIND_HEADER, "kafka")
        if request.eta:
            # A broker without the schedule: Celery's own way, a timer in this worker.
            consumer.timer.call_at(to_timestamp(timezone.to_system(request.eta)), gatherer.add, (request, kind))
        else:
            gatherer.add(request, kind)
        return None

    handle.gatherer = gatherer  # type: ignore[attr-defined]
    return handle


def _as_event(request: Any) -> dict[str, Any]:
    return {
        "uuid": request.id,
        "name": request.name,
        "args": request.argsrepr,
        "kwargs": request.kwargsrepr,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "retries": retries_of(request),
        "eta": request.eta and request.eta.isoformat(),
        "expires": None,
    }


def _take(queue: deque[Any], count: int) -> list[Any]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]
