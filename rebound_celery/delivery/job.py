"""One job of the pool: the deliveries in it, and what its end means for each."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from celery.worker.state import task_accepted, task_ready

from ..clock import SYSTEM_CLOCK, Clock
from ..schedule.port import Tally, message_leases
from .events import TaskEvents
from .result import End, Result, Results

#: Seconds for all that a job stores in Redis and in a result backend.
_STORING_S = 60.0
#: Seconds between the soft and the hard limit of a job.
_HARD_MARGIN_S = 30.0

logger = logging.getLogger(__name__)


class Received(NamedTuple):
    """A delivery task's message as the worker's parent gives it to the pool, undecoded."""

    body: Any
    content_type: str
    content_encoding: str
    task_id: str
    priority: int


class Job:
    """Deliveries that one process of the pool makes together.

    Args:
        task: the delivery task.
        requests: Celery's requests.
        losses: how many workers were lost with them before.
        run: runs requests, with their losses, as another job.
        then: called when this one has ended.
        events: tells those who watch.
        clock: tells the time.
    """

    def __init__(
        self,
        task: Any,
        requests: Sequence[Any],
        losses: int,
        run: Callable[..., None],
        then: Callable[[], None] | None,
        events: TaskEvents,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._task = task
        self._requests = requests
        self._losses = losses
        self._run = run
        self._then = then
        self._events = events
        self._clock = clock
        self._began = clock.monotonic()

    def start(self, pool: Any) -> None:
        """Give it to the pool."""
        pool.apply_async(
            self._task.run_batch,
            args=([received_of(request) for request in self._requests], self._requests[0].hostname),
            accept_callback=self.on_accepted,
            callback=self.on_done,
            error_callback=self.on_lost,
            **_limits(pool.options, self._task.longest_send_s + _STORING_S),
        )

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The pool has begun the job: do what Celery's Request does, for all requests at once."""
        began = self._clock.now_ms() / 1000 - (self._clock.monotonic() - time_accepted)
        for request in self._requests:
            request.worker_pid, request.time_start = pid, began
            task_accepted(request)
        self._events.tell("task-started", ({"uuid": request.id} for request in self._requests))

    def on_done(self, results: Sequence[Result]) -> None:
        """The pool has ended the job: settle its messages, and tell those who watch."""
        if not isinstance(results, list):
            # Pools of one process report a lost thread this way.
            self.on_lost(results)
            return
        try:
            self._settle(results)
        finally:
            self._end()

    def _settle(self, results: Sequence[Result]) -> None:
        runtime = self._clock.monotonic() - self._began
        by_end: dict[End, list[tuple[Any, Result]]] = {end: [] for end in End}
        for request, result in zip(self._requests, results, strict=True):
            task_ready(request, successful=result.end == End.DONE)
            by_end[result.end].append((request, result))
        # A task that was stored again has a new entry of the same id: this ends only the lease of the earlier entry.
        settled = [request for end in (End.DONE, End.DEAD, End.DROPPED, End.AGAIN) for request, _ in by_end[end]]
        _acknowledge(settled, results.tally if isinstance(results, Results) else None)
        for request, _ in by_end[End.BACK]:
            request.reject(requeue=True)
        tell_ends(self._events, by_end, runtime)
        logger.debug("a job of %d deliveries took %.3f s", len(results), runtime, extra={"event": "batch"})

    def _end(self) -> None:
        # Also after an error, such as that of a lost connection: the gatherer counts the jobs that have not ended.
        if self._then is not None:
            self._then()

    def on_lost(self, exc_info: Any) -> None:
        """The pool's process died: run each message again alone, so that one that kills it takes no other along.

        A message that the lost process has stored again is not run: it waits for its next attempt.
        """
        try:
            self._run_again(exc_info)
        finally:
            self._end()

    def _run_again(self, exc_info: Any) -> None:
        losses = self._losses + (len(self._requests) == 1)
        logger.error(
            "a job of %d deliveries was lost: %s",
            len(self._requests),
            exc_info,
            extra={"event": "worker_lost", "task_ids": [request.id for request in self._requests]},
        )
        message = self._requests[0].message
        message_leases(message).count_lost_worker(message.delivery_tag)
        again = _no_longer_held(self._requests)
        for request in again:
            task_ready(request)
        tell_ends(self._events, {End.AGAIN: [(request, Result(End.AGAIN, "stored again")) for request in again]}, 0.0)
        for request in self._requests:
            if request.acknowledged:
                # It was stored again. Or it was given back: Celery has ended the process, for its connection was lost.
                continue
            if losses < self._task.max_worker_losses:
                self._run([request], losses)
            else:
                give_up(self._task, request, losses, self._events)


def _limits(options: Mapping[str, Any], longest_s: float) -> dict[str, float]:
    """The time limits of a job. Those of the pool are for the app's own tasks, and may be shorter than a job may take.

    Such a limit would end posts in their midst, as an outage: they use up no attempt, and are repeated without end.

    Args:
        options: the pool's options.
        longest_s: how long a job may take by its own time-outs.
    """
    limits = {}
    if soft_s := options.get("soft_timeout"):
        limits["soft_timeout"] = max(soft_s, longest_s)
    if hard_s := options.get("timeout"):
        limits["timeout"] = max(hard_s, longest_s + _HARD_MARGIN_S)
    return limits


def give_up(task: Any, request: Any, losses: int, events: TaskEvents) -> bool:
    """End a delivery whose workers were lost too often; False if it went back to its queue."""
    results: Results = task.give_up(received_of(request), losses, request.hostname)
    (result,) = results
    task_ready(request)
    if result.end == End.BACK:
        request.reject(requeue=True)
    else:
        _acknowledge([request], results.tally)
    tell_ends(events, {result.end: [(request, result)]}, 0.0)
    return bool(result.end != End.BACK)


def tell_ends(events: TaskEvents, by_end: dict[End, list[tuple[Any, Result]]], runtime: float) -> None:
    """Send the events that tell how deliveries ended."""
    done, dead, dropped, again = (by_end.get(end, ()) for end in (End.DONE, End.DEAD, End.DROPPED, End.AGAIN))
    events.tell(
        "task-succeeded",
        ({"uuid": request.id, "result": repr(result.text), "runtime": runtime} for request, result in done),
    )
    events.tell("task-failed", (_failure(request, result) for request, result in (*dead, *dropped)))
    events.tell("task-retried", (_failure(request, result) for request, result in again))


def _failure(request: Any, result: Result) -> dict[str, Any]:
    return {"uuid": request.id, "exception": result.text, "traceback": result.traceback}


def _acknowledge(requests: Sequence[Any], tally: Tally | None = None) -> None:
    """Acknowledge messages: those that are leased all at once, which costs much less than one by one.

    The tally goes with those of the first channel.
    """
    for its in _by_channel(requests):
        tags = [request.message.delivery_tag for request in its]
        left, tally = message_leases(its[0].message).end(tags, tally), None
        for request in its:
            if request.message.delivery_tag in left:
                request.acknowledge()
            else:
                request.acknowledged = True


def still_held(requests: Sequence[Any]) -> Sequence[Any]:
    """The requests that may begin. Redis is asked only where leases may have run out.

    A process that stood still for longer than a lease holds messages that others have delivered meanwhile.
    """
    if not any(message_leases(its[0].message).in_doubt() for its in _by_channel(requests)):
        return requests
    gone = _no_longer_held(requests)
    for request in gone:
        task_ready(request)
    if gone:
        logger.warning(
            "%d messages are not delivered here: their leases have run out, and another worker has them",
            len(gone),
            extra={"event": "leases_ran_out", "task_ids": [request.id for request in gone]},
        )
    return [request for request in requests if not request.acknowledged]


def _no_longer_held(requests: Sequence[Any]) -> list[Any]:
    """The requests whose message Redis no longer has as it was delivered. Their leases are let go."""
    found = []
    for its in _by_channel(requests):
        gone = message_leases(its[0].message).let_go([request.message.delivery_tag for request in its])
        found += [request for request in its if request.message.delivery_tag in gone]
    for request in found:
        request.acknowledged = True
    return found


def _by_channel(requests: Sequence[Any]) -> list[list[Any]]:
    by_channel: dict[Any, list[Any]] = defaultdict(list)
    for request in requests:
        by_channel[request.message.channel].append(request)
    return list(by_channel.values())


def received_of(request: Any) -> Received:
    """What the pool gets of a request."""
    message = request.message
    return Received(message.body, message.content_type, message.content_encoding, request.id, priority_of(request))


def retries_of(request: Any) -> int:
    return _count(request.request_dict.get("retries"))


def priority_of(request: Any) -> int:
    return _count((request.delivery_info or {}).get("priority"))


def _count(value: Any) -> int:
    """A number from a message's headers. They may hold anything, and one bad header must not fail the whole batch."""
    return value if isinstance(value, int) and value >= 0 else 0
