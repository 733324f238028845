"""One job of the pool: the deliveries in it, and what its end means for each."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from celery.worker.state import task_accepted, task_ready

from .batch import End
from .events import TaskEvents

logger = logging.getLogger(__name__)


class Job:
    """Deliveries that one process of the pool makes together.

    Args:
        task: the delivery task.
        requests: Celery's requests.
        losses: how many workers were lost with them before.
        run: runs requests, with their losses, as another job.
        then: called when this one has ended.
        events: tells those who watch.
    """

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

    def start(self, pool: Any) -> None:
        """Give it to the pool."""
        pool.apply_async(
            self._task.run_batch,
            args=([_as_received(request) for request in self._requests],),
            accept_callback=self.on_accepted,
            callback=self.on_done,
            error_callback=self.on_lost,
        )

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
        """The pool's process died: each message runs again alone, so that one that kills it takes no other along.

        What the process had stored again before waits for its next attempt; running it now would make this one again.
        """
        losses = self._losses + (len(self._requests) == 1)
        logger.error(
            "a job of %d deliveries was lost: %s", len(self._requests), exc_info, extra={"event": "worker_lost"}
        )
        again = _stored_again(self._requests)
        for request in again:
            task_ready(request)
        self._events.tell(
            "task-retried", ({"uuid": request.id, "exception": "stored again", "traceback": ""} for request in again)
        )
        for request in self._requests:
            if request.acknowledged:
                # Settled just now. Or given back already: Celery has ended the process, for its connection was lost.
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


def _stored_again(requests: Sequence[Any]) -> list[Any]:
    """Those whose message Redis has no more as it was delivered; they are settled."""
    by_channel: dict[Any, dict[str, Any]] = defaultdict(dict)
    for request in requests:
        by_channel[request.message.channel][request.message.delivery_tag] = request
    found = []
    for channel, its in by_channel.items():
        let_go = getattr(getattr(channel, "qos", None), "let_go", None)
        found += [its[tag] for tag in (let_go(its) if let_go is not None else ())]
    for request in found:
        request.acknowledged = True
    return found


def _as_received(request: Any) -> tuple[Any, ...]:
    """See `task.Received`."""
    message = request.message
    return (
        message.body,
        message.content_type,
        message.content_encoding,
        request.id,
        retries_of(request),
        priority_of(request),
    )


def retries_of(request: Any) -> int:
    return _count(request.request_dict.get("retries"))


def priority_of(request: Any) -> int:
    return _count((request.delivery_info or {}).get("priority"))


def _count(value: Any) -> int:
    """A number of a message's headers, which may be anything: one that is none must not fail the whole batch."""
    return value if isinstance(value, int) and value >= 0 else 0
