"""The Celery task that delivers due messages: to their destination, or to the dead letters."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Task
from celery.backends.base import DisabledBackend
from celery.exceptions import Ignore, Reject
from kombu import serialization
from kombu.exceptions import ContentDisallowed, SerializationError
from redis.exceptions import RedisError

from ..config import Settings
from ..destinations import Destination
from ..destinations.dead_set import DeadSet
from ..errors import DeliveryError, NotStoredError, UnknownVersionError, WireFormatError
from ..message import Message
from .batch import End, Item, Result, Waiting, deliver
from .publisher import Publisher
from .strategy import strategy
from .task_messages import TASK_NAME, Delivery

#: What no setting of the app's may change in the delivery task.
PROMISED = (
    "acks_late",
    "reject_on_worker_lost",
    "retry_on_worker_lost",
    "acks_on_failure",
    "acks_on_timeout",
    "max_retries",
    "expires",
)

#: What storing or keeping a message meets when Redis is away.
_NOT_KEPT = (NotStoredError, RedisError, OSError)

#: What reading a message meets that is damaged, or of another version.
_UNREADABLE = (
    WireFormatError,
    LookupError,
    TypeError,
    ValueError,
    RecursionError,
    SerializationError,
    ContentDisallowed,
)

#: A message as the worker hands it to its pool: body, content type, content encoding, task id, retries, priority.
Received = tuple[Any, str, str, str, int, int]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Destinations:
    """The open destinations of one process, by the kind of address they serve."""

    by_kind: Mapping[str, Destination]
    dead_set: DeadSet

    def close(self) -> None:
        for destination in self.by_kind.values():
            destination.close()


class PerProcess:
    """Destinations made when first needed, anew in a forked child: a producer's threads do not survive a fork."""

    def __init__(self, build: Callable[[], Destinations]) -> None:
        self._build = build
        self._pid: int | None = None
        self._current: Destinations | None = None

    def get(self) -> Destinations:
        if self._current is None or self._pid != os.getpid():
            self._current, self._pid = self._build(), os.getpid()
        return self._current

    def close(self) -> None:
        """Close what this process opened; what a parent opened before the fork is the parent's."""
        if self._current is not None and self._pid == os.getpid():
            self._current.close()
        self._current = None


class DeliverTask(Task):
    """Delivers messages and settles each: done, scheduled again, or a dead letter.

    A message is acknowledged only after that, and given back if the worker dies or runs out of time, whatever the
    app's own settings say: it leaves Redis only when its destination has confirmed it.
    """

    name = TASK_NAME
    Strategy = staticmethod(strategy)
    acks_late = True
    reject_on_worker_lost = True
    retry_on_worker_lost = False
    acks_on_failure = False
    acks_on_timeout = False
    # Outages are waited out however long they take; attempts are counted in the message, not here.
    max_retries = None
    # A retry that expires is a lost one.
    expires = None

    #: Set by the app that registers the task.
    destinations: PerProcess
    read_settings: Callable[[], Settings]
    publisher: Callable[[], Publisher]

    @classmethod
    def annotate(cls) -> None:
        """Apply the app's `task_annotations`, save for what the promise rests on: `{"*": ...}` is meant for others."""
        super().annotate()
        for name in PROMISED:
            setattr(cls, name, getattr(DeliverTask, name))

    @property
    def max_worker_losses(self) -> int:
        return self.read_settings().max_worker_losses

    def run_batch(self, batch: Sequence[Received]) -> list[Result]:
        """Deliver what a worker received; one result a message, in their order. Runs in the pool's process."""
        results: dict[int, Result] = {}
        items: dict[int, Item] = {}
        for index, (body, content_type, content_encoding, task_id, retries, priority) in enumerate(batch):
            try:
                args = self._decode(body, content_type, content_encoding)
                items[index] = Item(Message.from_wire(args[0][0]), task_id, retries, priority)
            except UnknownVersionError as error:
                logger.error("task %s goes back to its queue: %s", task_id, error, extra={"event": "later_version"})  # noqa: TRY400
                results[index] = End.BACK, str(error)
            except _UNREADABLE as error:
                results[index] = self.set_aside(task_id, body, error)
        results.update(zip(items, self._deliver(list(items.values())), strict=True))
        ordered = [results[index] for index in range(len(batch))]
        self._store_results(batch, ordered)
        return ordered

    def run(self, wire: object) -> str:
        """Deliver one message: in the caller's process, or for a worker that received it in an older protocol."""
        request = self.request
        item = Item(Message.from_wire(wire), request.id, request.retries or 0, 0)
        if request.called_directly or request.is_eager:
            # Nothing waits when tasks run in the caller's process: the caller is told.
            ((_, text),) = deliver([item], self._by_kind(), self.read_settings(), _raise_instead)
            return text
        ((end, text),) = self._deliver([item])
        if end == End.AGAIN:
            raise Ignore
        if end == End.BACK:
            raise Reject(text, requeue=True)
        return text

    def _deliver(self, items: Sequence[Item]) -> list[Result]:
        try:
            return deliver(items, self._by_kind(), self.read_settings(), self._store_again)
        except Exception as error:
            # Celery would drop the message of a task that fails.
            logger.exception("%d deliveries go back to their queue", len(items), extra={"event": "delivery_error"})
            return [(End.BACK, repr(error))] * len(items)

    def _by_kind(self) -> Mapping[str, Destination]:
        return self.destinations.get().by_kind

    def _decode(self, body: Any, content_type: str, content_encoding: str) -> Any:
        if content_type == "application/json":
            # What rebound sends is plain; kombu's decoder asks of each object whether it is one of its special types.
            return json.loads(body)
        accepted = serialization.prepare_accept_content(self.app.conf.accept_content)
        return serialization.loads(body, content_type, content_encoding, accept=accepted)

    def _store_again(self, waiting: Sequence[Waiting]) -> None:
        now_ms = time.time_ns() // 1_000_000
        self.publisher().publish_tasks(
            [
                Delivery(
                    step.message,
                    now_ms + round(step.delay_s * 1000),
                    step.item.task_id,
                    retries=step.item.retries + 1,
                    priority=step.item.priority,
                )
                for step in waiting
            ]
        )

    def give_up(self, request: Any) -> bool:
        """Make a dead letter of a message whose workers were lost too often; False if that could not be stored."""
        # The request's own body is but a text to show.
        received = request.message
        try:
            args = self._decode(received.body, received.content_type, received.content_encoding)
            message = Message.from_wire(args[0][0])
        except UnknownVersionError:
            return False
        except _UNREADABLE as error:
            end, _ = self.set_aside(request.id, received.body, error)
            return end == End.DONE
        try:
            if message.reason is None:
                self.publisher().publish_tasks([Delivery(message.dead("worker-lost"), 0, request.id)])
            else:
                # Writing its dead letter costs workers too: it stays in Redis, where nothing is done with it.
                (outcome,) = self.destinations.get().dead_set.send([message])
                if isinstance(outcome, DeliveryError):
                    raise outcome
        except (*_NOT_KEPT, DeliveryError):
            logger.exception("%s goes back to its queue", request.id, extra={"event": "worker_lost"})
            return False
        return True

    def set_aside(self, task_id: str, body: Any, error: Exception) -> Result:
        """Keep what cannot be read where nothing is done with it."""
        logger.error("task %s is kept in the dead set: %s", task_id, error, extra={"event": "unreadable"})
        try:
            text = body.decode("utf-8", "backslashreplace") if isinstance(body, bytes) else body
            self.destinations.get().dead_set.keep_unreadable(task_id, text)
        except Exception as redis_error:
            logger.exception("task %s goes back to its queue", task_id, extra={"event": "unreadable"})
            return End.BACK, str(redis_error)
        return End.DONE, "kept in the dead set: unreadable"

    def _store_results(self, batch: Sequence[Received], results: Sequence[Result]) -> None:
        """Tell the result backend, where the app has one and wants it told."""
        backend = self.backend
        if self.ignore_result or isinstance(backend, DisabledBackend):
            return
        for (_, _, _, task_id, _, _), (end, text) in zip(batch, results, strict=True):
            try:
                if end == End.DONE:
                    backend.mark_as_done(task_id, text)
                elif end == End.AGAIN:
                    backend.mark_as_retry(task_id, DeliveryError(text))
            except Exception:
                # The delivery stands, whatever becomes of the note about it.
                logger.exception("the result of task %s could not be stored", task_id)


def _raise_instead(waiting: Sequence[Waiting]) -> None:
    raise waiting[0].error
