"""The Celery task that delivers due messages: to their destination, or to the dead letters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from ..clock import SYSTEM_CLOCK, Clock
from ..config import Settings
from ..destinations import Delivered
from ..durable_task import DurableTask
from ..errors import (
    DeadLetterError,
    DeliveryError,
    DroppedError,
    InvalidSettingError,
    NotStoredError,
    OutageError,
    UnreachableError,
)
from ..message.encryption import KeyRing
from ..policy import WORKER_LOST, DeadLetter, Failure
from ..redaction import Redactor
from ..schedule.port import Tally
from .batch import Batch
from .chains import Chains
from .delivery import Delivery
from .form import TASK_NAME, DeliveryForm, from_argument
from .job import Received
from .log_fields import log_fields, named
from .observed import Observed, observe, tell_failure
from .opened import OpenedDestinations
from .outage_mode import OutageMode
from .plainly import FAULTS
from .publisher import Publisher
from .reading import read_many
from .result import End, Result, Results, dead_letter_text, pause_before_back
from .results import keeps_results, request_of, store_result, store_started
from .strategy import Strategy
from .tallies import tally_of, tally_of_dead

#: What storing or keeping a message meets when Redis is away, or is not the app's broker.
_NOT_KEPT = (NotStoredError, UnreachableError, DeliveryError, *FAULTS)

logger = logging.getLogger(__name__)


class DeliverTask(DurableTask):
    """Delivers messages and settles each: done, scheduled again, or a dead letter.

    A message leaves Redis only when its destination has confirmed it. Attempts are counted in the message: the task's
    own retries are not used.
    """

    name = TASK_NAME
    Strategy = Strategy

    #: Set by the app that registers the task.
    destinations: OpenedDestinations
    read_settings: Callable[[], Settings]
    publisher: Callable[[], Publisher]
    chains: Callable[[], Chains]
    form: DeliveryForm
    outage_mode: OutageMode
    clock: Clock = SYSTEM_CLOCK
    #: The rate limit that the app's `task_annotations` give this task. It does not apply, and a worker says so.
    ignored_rate_limit: object = None

    @classmethod
    def annotate(cls) -> None:
        """Apply the app's `task_annotations`, save for what must not change."""
        super().annotate()
        cls.ignored_rate_limit = vars(cls).get("rate_limit")
        cls.rate_limit = DeliverTask.rate_limit  # type: ignore[method-assign]

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

    @property
    def redact(self) -> Redactor:
        return self.read_settings().redact

    @property
    def keys(self) -> KeyRing:
        return self.read_settings().encryption_keys

    def run_batch(self, batch: Sequence[Received], worker: str) -> Results:
        """Deliver what a worker received; one result for each message, in their order. Runs in the pool's process."""
        results: dict[int, Result] = {}
        deliveries: dict[int, Delivery] = {}
        for index, read in enumerate(read_many(self, batch, worker)):
            if isinstance(read, Delivery):
                deliveries[index] = read
            else:
                results[index] = read
        observed = observe(self, deliveries, worker)
        keeps = keeps_results(self)
        if keeps and self.track_started and not self.ignore_result:
            for delivery in deliveries.values():
                store_started(self, request_of(self, delivery, worker))
        unreadable = sum(result.end == End.DEAD for result in results.values())
        delivered = self._deliver(list(deliveries.values()), worker, observed.values())
        for (index, delivery), result in zip(deliveries.items(), delivered, strict=True):
            results[index] = result
            if observed:
                observed[index].ended(result)
            elif keeps:
                store_result(self, request_of(self, delivery, worker), result)
        if keeps:
            self._clean_up()
        pause_before_back(results.values(), self.clock)
        ended = Results(results[index] for index in range(len(batch)))
        ended.tally = Tally.sum((delivered.tally, tally_of((), (), unreadable=unreadable)))
        return ended

    def run(self, argument: object) -> str:
        """Deliver one message in the caller's process: workers call `run_batch`."""
        delivery = Delivery.decode(self.request.id or "", from_argument(argument), keys=self.keys)
        # Nothing waits where tasks run in the caller's process: the caller hears what failed.
        batch = Batch(
            self.destinations.by_kind, self.read_settings(), None, "the caller", self.clock, self.chains().gone
        )
        (result,) = batch.deliver([delivery])
        if result.end == End.DEAD:
            raise DeadLetterError(result.text)
        if result.end == End.DROPPED:
            raise DroppedError(result.text)
        if result.end == End.AGAIN:
            raise DeliveryError(result.text)
        return result.text

    def _deliver(self, deliveries: Sequence[Delivery], worker: str, observed: Iterable[Observed]) -> Results:
        try:
            return self._batch(worker, self.publisher()).deliver(deliveries)
        except Exception as error:  # noqa: BLE001 - Celery would drop the message of a task that fails
            extra: dict[str, object] = {"event": "delivery_error"}
            self.redact.log(logger, "%d deliveries go back to their queue", len(deliveries), error=error, extra=extra)
            for one in observed:
                one.broke(error)
            return Results([Result(End.BACK, repr(error))] * len(deliveries))

    def _clean_up(self) -> None:
        """Do what Celery does for the result backend after each task."""
        try:
            self.backend.process_cleanup()
        except Exception as error:  # noqa: BLE001 - the deliveries stand
            self.redact.log(logger, "the result backend could not clean up", error=error, extra={"event": "no_result"})

    def _batch(self, worker: str, publisher: Publisher) -> Batch:
        settings = self.read_settings()
        return Batch(
            self.destinations.by_kind,
            settings,
            publisher.publish,
            worker,
            self.clock,
            self.chains().gone,
            outage_mode=None if settings.breaker is None else self.outage_mode,
            waits=not publisher.replaces(),
        )

    def give_up(self, received: Received, losses: int, worker: str) -> Results:
        """Make a dead letter of a message whose workers were lost too often; returns its one result."""
        (read,) = read_many(self, [received], worker)
        if not isinstance(read, Delivery):
            return Results([read])
        delivery = self._worker_lost(read, losses, worker)
        try:
            if read.message.reason is None:
                self.publisher().publish([delivery])
                return Results([Result(End.AGAIN, dead_letter_text(delivery.message))])
            # Writing its dead letter costs workers too: it stays in Redis, where nothing is done with it.
            (outcome,) = self.destinations.by_kind["dead-set"].send([delivery.message])
            if not isinstance(outcome, Delivered):
                raise OutageError(outcome.error)
            if delivery.chained:
                self.chains().gone([delivery.task_id], dead=True)
        except _NOT_KEPT as error:
            self.redact.log(
                logger,
                "%s goes back to its queue",
                named(read.message),
                error=error,
                extra={"event": "not_stored", **log_fields(read.message)},
            )
            return Results([Result(End.BACK, str(error))])
        result = Result(End.DEAD, dead_letter_text(delivery.message))
        request = request_of(self, delivery, worker)
        store_result(self, request, result)
        tell_failure(self, request, result)
        ended = Results([result])
        ended.tally = tally_of_dead(delivery.message, self.read_settings().metrics_labels)
        return ended

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
            message = self.redact.dead_letter(message)
        return replace(delivery, message=message, due_ms=now_ms, tries=delivery.tries + 1)
