"""The Celery task that delivers due messages: to their destination, or to the dead letters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celery import Task
from msgspec.structs import replace

from ..clock import SYSTEM_CLOCK, Clock
from ..config import Settings
from ..destinations import Delivered, exception_of
from ..errors import (
    DeadLetterError,
    DeliveryError,
    InvalidSettingError,
    NotStoredError,
    ReboundError,
    UnknownVersionError,
    UnreachableError,
    WireFormatError,
)
from ..message import Message, codec, message_id_of
from ..policy import WORKER_LOST, DeadLetter, Failure
from ..schedule.port import DeadEntry, Entry
from .batch import Batch, End, Result, dead_letter_text, pause_before_back
from .delivery import Delivery
from .form import TASK_NAME, DeliveryForm, from_argument, stored_form_of
from .job import Received
from .log_fields import log_fields, named
from .observed import Observed, observe, tell_failure
from .opened import OpenedDestinations
from .publisher import FAULTS, Publisher
from .results import keeps_results, request_of, request_of_unread, store_result, store_started
from .strategy import Strategy

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

#: The reason of a dead letter whose stored form cannot be read.
UNREADABLE = "unreadable"

#: Milliseconds until a message of a later version is looked at again.
_UNKNOWN_PAUSE_MS = 300_000

#: What storing or keeping a message meets when Redis is away, or is not the app's broker.
_NOT_KEPT = (NotStoredError, UnreachableError, DeliveryError, *FAULTS)

logger = logging.getLogger(__name__)


class DeliverTask(Task):
    """Delivers messages and settles each: done, scheduled again, or a dead letter.

    A message is acknowledged only after that, and given back if the worker dies or runs out of time, whatever the
    app's own settings say: it leaves Redis only when its destination has confirmed it.
    """

    name = TASK_NAME
    Strategy = Strategy
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
    destinations: OpenedDestinations
    read_settings: Callable[[], Settings]
    publisher: Callable[[], Publisher]
    form: DeliveryForm
    clock: Clock = SYSTEM_CLOCK
    #: The rate limit that the app's `task_annotations` give this task. It does not apply, and a worker says so.
    ignored_rate_limit: object = None

    @classmethod
    def annotate(cls) -> None:
        """Apply the app's `task_annotations`, save for what the promise rests on: `{"*": ...}` is meant for others."""
        super().annotate()
        cls.ignored_rate_limit = vars(cls).get("rate_limit")
        for name in (*PROMISED, "rate_limit"):
            setattr(cls, name, getattr(DeliverTask, name))

    @property
    def rate_limit(self) -> None:
        """None: Celery's rate limit holds back single messages in a worker, and deliveries come many at a time."""

    @rate_limit.setter
    def rate_limit(self, value: object) -> None:
        """Refuse it, where `celery control rate_limit` would report a success."""
        if value:
            raise InvalidSettingError("rate_limit", value, f"Celery's rate limits do not apply to {self.name}")

    @property
    def max_worker_losses(self) -> int:
        return self.read_settings().max_worker_losses

    @property
    def longest_send_s(self) -> float:
        """Seconds that the destinations of a job may take."""
        settings = self.read_settings()
        return settings.http_timeout + settings.kafka_timeout

    def queue_name(self) -> str:
        return self.read_settings().queue

    def run_batch(self, batch: Sequence[Received], worker: str) -> list[Result]:
        """Deliver what a worker received; one result for each message, in their order. Runs in the pool's process."""
        results: dict[int, Result] = {}
        deliveries: dict[int, Delivery] = {}
        for index, read in enumerate(self._read_many(batch, worker)):
            if isinstance(read, Delivery):
                deliveries[index] = read
            else:
                results[index] = read
        observed = observe(self, deliveries, worker)
        keeps = keeps_results(self)
        if keeps and self.track_started and not self.ignore_result:
            for delivery in deliveries.values():
                store_started(self, request_of(self, delivery, worker))
        for (index, delivery), result in zip(
            deliveries.items(), self._deliver(list(deliveries.values()), worker, observed.values()), strict=True
        ):
            results[index] = result
            if observed:
                observed[index].ended(result)
            elif keeps:
                store_result(self, request_of(self, delivery, worker), result)
        if keeps:
            self._clean_up()
        pause_before_back(results.values(), self.clock)
        return [results[index] for index in range(len(batch))]

    def run(self, argument: object) -> str:
        """Deliver one message in the caller's process: workers call `run_batch`."""
        delivery = Delivery.decode(self.request.id or "", from_argument(argument))
        # Nothing waits where tasks run in the caller's process: the caller hears what failed.
        (result,) = self._batch("the caller", None).deliver([delivery])
        if result.end == End.DEAD:
            raise DeadLetterError(result.text)
        if result.end == End.AGAIN:
            raise DeliveryError(result.text)
        return result.text

    def _deliver(self, deliveries: Sequence[Delivery], worker: str, observed: Iterable[Observed]) -> list[Result]:
        try:
            return self._batch(worker, self.publisher().publish).deliver(deliveries)
        except Exception as error:
            # Celery would drop the message of a task that fails.
            logger.exception("%d deliveries go back to their queue", len(deliveries), extra={"event": "delivery_error"})
            for one in observed:
                one.broke(error)
            return [Result(End.BACK, repr(error))] * len(deliveries)

    def _clean_up(self) -> None:
        """Do what Celery does for the result backend after each task."""
        try:
            self.backend.process_cleanup()
        except Exception:
            logger.exception("the result backend could not clean up", extra={"event": "no_result"})

    def _batch(self, worker: str, store: Callable[[Sequence[Delivery]], None] | None) -> Batch:
        return Batch(self.destinations.by_kind, self.read_settings(), store, worker, self.clock)

    def _read_many(self, batch: Sequence[Received], worker: str) -> list[Delivery | Result]:
        """What each message brings: its delivery; or how it ended, if it cannot be read."""
        stored: list[bytes | WireFormatError] = []
        for received in batch:
            try:
                stored.append(stored_form_of(self.app, received.body, received.content_type, received.content_encoding))
            except WireFormatError as error:
                stored.append(error)
        forms = [
            (message_id_of(received.task_id), form)
            for received, form in zip(batch, stored, strict=True)
            if isinstance(form, bytes)
        ]
        decoded = iter(codec.decode_many(forms))
        return [
            self._delivery_of(received, form, next(decoded), worker)
            if isinstance(form, bytes)
            else self.set_aside(received, form, worker)
            for received, form in zip(batch, stored, strict=True)
        ]

    def _delivery_of(
        self, received: Received, stored: bytes, decoded: tuple[Message, dict[str, Any]] | ReboundError, worker: str
    ) -> Delivery | Result:
        try:
            if isinstance(decoded, ReboundError):
                raise decoded
            return Delivery.of(received.task_id, *decoded, received.priority)
        except UnknownVersionError as error:
            return self._leave(received, stored, error)
        except WireFormatError as error:
            return self.set_aside(received, error, worker)

    def text_of(self, received: Received) -> str:
        """What a message is, for people."""
        try:
            stored = stored_form_of(self.app, received.body, received.content_type, received.content_encoding)
            return str(Delivery.decode(received.task_id, stored).message)
        except (UnknownVersionError, WireFormatError) as error:
            return str(error)

    def give_up(self, received: Received, losses: int, worker: str) -> Result:
        """Make a dead letter of a message whose workers were lost too often."""
        (read,) = self._read_many([received], worker)
        if not isinstance(read, Delivery):
            return read
        delivery = self._worker_lost(read, losses, worker)
        try:
            if read.message.reason is None:
                self.publisher().publish([delivery])
                return Result(End.AGAIN, dead_letter_text(delivery.message))
            # Writing its dead letter costs workers too: it stays in Redis, where nothing is done with it.
            (outcome,) = self.destinations.by_kind["dead-set"].send([delivery.message])
            if not isinstance(outcome, Delivered):
                raise exception_of(outcome)
        except _NOT_KEPT as error:
            logger.exception(
                "%s goes back to its queue",
                named(read.message),
                extra={"event": "not_stored", **log_fields(read.message)},
            )
            return Result(End.BACK, str(error))
        result = Result(End.DEAD, dead_letter_text(delivery.message))
        request = request_of(self, delivery, worker)
        store_result(self, request, result)
        tell_failure(self, request, result)
        return result

    def _worker_lost(self, delivery: Delivery, losses: int, worker: str) -> Delivery:
        message = delivery.message
        what = "1 worker was" if losses == 1 else f"{losses} workers were"
        logger.error(
            "%s is given up: %s lost while delivering it",
            named(message),
            what,
            extra={"event": "worker_lost", **log_fields(message)},
        )
        failure = Failure("billiard.exceptions.WorkerLostError", f"{what} lost while delivering it")
        now_ms = self.clock.now_ms()
        if message.reason is None:
            message = message.failed(failure, DeadLetter(WORKER_LOST), now_ms=now_ms, by=worker)
        return replace(delivery, message=message, due_ms=now_ms, tries=delivery.tries + 1)

    def set_aside(self, received: Received, error: Exception, worker: str) -> Result:
        """Keep what cannot be read among the dead letters in Redis, as it is, and tell that its task has failed."""
        task_id = str(received.task_id)
        logger.error(
            "task %s cannot be read and becomes a dead letter: %s",
            task_id,
            error,
            extra={"event": "unreadable", "message_id": task_id},
        )
        body = received.body
        stored = body if isinstance(body, bytes) else str(body).encode("utf-8", "backslashreplace")
        try:
            with self.publisher().open() as schedule:
                schedule.bury([DeadEntry(task_id, UNREADABLE, stored)])
        except Exception as fault:
            logger.exception("task %s goes back to its queue", task_id, extra={"event": "not_stored"})
            return Result(End.BACK, str(fault))
        result = Result(End.DEAD, f"{UNREADABLE}: {error}")
        request = request_of_unread(self, task_id, str(error), received.priority, worker)
        store_result(self, request, result)
        tell_failure(self, request, result)
        return result

    def _leave(self, received: Received, stored: bytes, error: UnknownVersionError) -> Result:
        """Leave what a later version has stored in the schedule, for a worker of that version."""
        logger.error(
            "task %s stays scheduled: %s",
            received.task_id,
            error,
            extra={"event": "unknown_version", "message_id": received.task_id},
        )
        due_ms = self.clock.now_ms() + _UNKNOWN_PAUSE_MS
        try:
            with self.publisher().open() as schedule:
                schedule.enqueue([Entry(received.task_id, due_ms, stored, priority=received.priority)])
        except Exception as fault:
            logger.exception("task %s goes back to its queue", received.task_id, extra={"event": "not_stored"})
            return Result(End.BACK, str(fault))
        return Result(End.AGAIN, str(error))
