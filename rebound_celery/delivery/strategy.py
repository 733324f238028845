"""How a worker takes delivery tasks: many at a time, as one job of its pool, each still a Celery task of its own.

Celery asks a task's `Strategy` what to do with each message received. Celery's own makes a pool job of each, which
costs more than delivering it. This one gathers the messages that arrive together.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from celery import signals
from celery.exceptions import InvalidTaskError
from celery.utils.imports import symbol_by_name
from celery.utils.time import timezone
from celery.worker.request import create_request_cls
from celery.worker.state import task_accepted, task_ready, task_reserved
from celery.worker.strategy import default
from kombu.asynchronous.timer import to_timestamp

from .batch import End
from .events import TaskEvents

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
        arrived, self._unannounced = self._unannounced, []
        if arrived:
            self._events.tell("task-received", map(_as_received, arrived))

    def _next_job(self) -> tuple[list[Any], int, Callable[[], None]] | None:
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
        job = Job(self._task, live, losses, self._run, then, self._events)
        self._consumer.pool.apply_async(
            self._task.run_batch,
            args=([_as_job_takes_it(request) for request in live],),
            accept_callback=job.on_accepted,
            callback=job.on_done,
            error_callback=job.on_lost,
        )


class Job:
    """One job of the pool: the requests in it, and what its end means for each."""

    def __init__(
        self,
        task: Any,
        requests: Sequence[Any],
        losses: int,
        run: Callable[..., None],
        then: Callable[[], None] | None,
        events: TaskEvents,
    ) -> None:
        self._task = task
        self._requests = requests
        self._losses = losses
        self._run = run
        self._then = then
        self._events = events
        self._began = time.monotonic()

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        # What Celery's Request does, for all of them at once.
        began = time.time() - (time.monotonic() - time_accepted)
        for request in self._requests:
            request.worker_pid, request.time_start = pid, began
            task_accepted(request)
        self._events.tell("task-started", ({"uuid": request.id} for request in self._requests))

    def on_done(self, results: Sequence[tuple[str, str]]) -> None:
        runtime = time.monotonic() - self._began
        if not isinstance(results, list):
            # In-process pools tell of a lost thread this way.
            self.on_lost(results)
            return
        by_end: dict[str, list[tuple[Any, str]]] = {End.DONE: [], End.AGAIN: [], End.BACK: []}
        for request, (end, text) in zip(self._requests, results, strict=True):
            task_ready(request, successful=end == End.DONE)
            by_end[end].append((request, text))
        done, again = by_end[End.DONE], by_end[End.AGAIN]
        # In the schedule the same id waits anew already, so this ends no more than the old lease.
        _acknowledge([request for request, _ in (*done, *again)])
        for request, _ in by_end[End.BACK]:
            request.reject(requeue=True)
        succeeded = ({"uuid": request.id, "result": repr(text), "runtime": runtime} for request, text in done)
        self._events.tell("task-succeeded", succeeded)
        self._events.tell(
            "task-retried", ({"uuid": request.id, "exception": text, "traceback": ""} for request, text in again)
        )
        logger.info("%d deliveries ended in %.3f s", len(results), runtime, extra={"event": "batch"})
        if self._then is not None:
            self._then()

    def on_lost(self, exc_info: Any) -> None:
        """The pool's process died: each message runs again alone, so that one that kills it takes no other along."""
        losses = self._losses + (len(self._requests) == 1)
        logger.error(
            "a job of %d deliveries was lost: %s", len(self._requests), exc_info, extra={"event": "worker_lost"}
        )
        for request in self._requests:
            if request.acknowledged:
                # Given back already: Celery has ended the process, for its connection was lost.
                continue
            if losses < self._task.max_worker_losses:
                self._run([request], losses)
                continue
            task_ready(request)
            if self._task.give_up(request):
                request.acknowledge()
            else:
                request.reject(requeue=True)
        if self._then is not None:
            self._then()


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


def _acknowledge(requests: Sequence[Any]) -> None:
    """Acknowledge what has come to its end."""
    by_channel: dict[Any, list[Any]] = defaultdict(list)
    for request in requests:
        by_channel[request.message.channel].append(request)
    for channel, its in by_channel.items():
        end_leases = getattr(getattr(channel, "qos", None), "end_leases", None)
        if end_leases is None:
            for request in its:
                request.acknowledge()
            continue
        # One by one, each ack goes through promises of Celery's and its loop, which costs more than ending a lease.
        left = end_leases([request.message.delivery_tag for request in its])
        for request in its:
            if request.message.delivery_tag in left:
                request.acknowledge()
            else:
                request.acknowledged = True


def _as_received(request: Any) -> dict[str, Any]:
    return {
        "uuid": request.id,
        "name": request.name,
        "args": request.argsrepr,
        "kwargs": request.kwargsrepr,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "retries": _retries(request),
        "eta": request.eta and request.eta.isoformat(),
        "expires": None,
    }


def _as_job_takes_it(request: Any) -> tuple[Any, ...]:
    """See `task.Received`."""
    message = request.message
    return (
        message.body,
        message.content_type,
        message.content_encoding,
        request.id,
        _retries(request),
        _priority(request),
    )


def _take(queue: deque[Any], count: int) -> list[Any]:
    return [queue.popleft() for _ in range(min(count, len(queue)))]


def _retries(request: Any) -> int:
    return _count(request.request_dict.get("retries"))


def _priority(request: Any) -> int:
    return _count((request.delivery_info or {}).get("priority"))


def _count(value: Any) -> int:
    """A number of a message's headers, which may be anything: one that is none must not fail the whole batch."""
    return value if isinstance(value, int) and value >= 0 else 0
