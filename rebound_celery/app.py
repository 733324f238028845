"""`Rebound(app)`: the one place where the parts are put together on a Celery app."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from functools import cached_property, partial
from typing import Any, cast

from celery import Celery, signals
from celery.result import AsyncResult
from celery.utils.imports import symbol_by_name
from kombu import Exchange, Queue

from . import registry
from .clock import SYSTEM_CLOCK
from .config import PREFIX, Settings
from .delivery.publisher import Publisher
from .delivery.task import DeliverTask, Destinations, PerProcess
from .delivery.task_messages import PRIORITY_HIGH, PRIORITY_NORMAL
from .destinations.dead_set import DeadSet
from .errors import InvalidSettingError, ReboundError
from .message import Message
from .requests import RetryRequest
from .schedule.worker.installation import install_schedule

#: How many messages `schedule_retries` stores in one round trip.
_CHUNK = 1000


class Rebound:
    """Retries with backoff and dead letters for a Celery app.

    `Rebound(app)` adds one task, `rebound.deliver`, and one queue, which every plain `celery -A ... worker` of this app
    then consumes. Workers of an app without Rebound never see that queue. Nothing connects, and no setting is read,
    until the app is used: settings may come later, as with Django.

    Args:
        app: the Celery app, with a Redis broker.
        **settings: `rebound_*` settings without that prefix, for this app; they win over its configuration.
            See `Settings` for all of them.

    Raises:
        InvalidSettingError: for an unknown setting.
    """

    def __init__(self, app: Celery, **settings: Any) -> None:
        unknown = set(settings) - {setting.name for setting in fields(Settings)}
        if unknown:
            raise InvalidSettingError(sorted(unknown)[0], settings[sorted(unknown)[0]], "there is no such setting")
        self.app = app
        self._overrides = {PREFIX + name: value for name, value in settings.items()}
        self._destinations = PerProcess(self._build_destinations)
        registry.install(app, self)
        install_schedule(app, self._schedule_options)
        self._add_queue()
        self._add_task()
        _when_configured(app, self._turn_on_events)

    # What is read and made when first needed

    @cached_property
    def settings(self) -> Settings:
        """The app's settings, read and checked when first asked for.

        Raises:
            InvalidSettingError: naming the setting, its value, and what is allowed.
        """
        return Settings.read({**{name: self.app.conf.get(name) for name in _SETTING_NAMES}, **self._overrides})

    @cached_property
    def _publisher(self) -> Publisher:
        return Publisher(self.app, self.settings.queue)

    @cached_property
    def dead_set(self) -> DeadSet:
        """The dead letters kept in Redis because they had no topic or URL to go to."""
        return DeadSet(self._publisher.open_redis)

    def _build_destinations(self) -> Destinations:
        # Imported here so that an app that only schedules never loads a Kafka or HTTP client.
        from .destinations.http import HttpDestination
        from .destinations.kafka import KafkaDestination

        # kafka-python tells each step of each connection, and at ERROR each one that fails, hundreds a second while
        # Kafka is away; what matters of it comes as rebound's own message.
        kafka_log = logging.getLogger("kafka")
        if kafka_log.level == logging.NOTSET:
            kafka_log.setLevel(logging.CRITICAL)
        settings = self.settings
        return Destinations(
            by_kind={
                "kafka": KafkaDestination(settings.kafka_brokers, settings.kafka_options, settings.kafka_timeout),
                "http": HttpDestination(settings.http_connect_timeout, settings.http_timeout),
                "dead-set": self.dead_set,
            },
            dead_set=self.dead_set,
        )

    # What is added to the app

    def _add_queue(self) -> None:
        """Declare rebound's queue where the app declares its own, whenever that happens."""
        if "amqp" in self.app.__dict__:
            # The app has been used already: its queues may be there.
            self._declare(self.app.amqp.queues)
            return
        # Celery takes any callable here. This one can be pickled with the app.
        self.app.amqp_cls = partial(_make_amqp, self.app.amqp_cls)

    def _declare(self, queues: Any) -> Any:
        name = self.settings.queue
        if name not in queues:
            queues.select_add(Queue(name, Exchange(name), routing_key=name))
        return queues

    def _add_task(self) -> None:
        destinations, read_settings = self._destinations, lambda: self.settings

        class Deliver(DeliverTask):
            """Rebound's delivery task, bound to this app's destinations and settings."""

        Deliver.destinations = destinations
        Deliver.read_settings = staticmethod(read_settings)
        Deliver.publisher = staticmethod(lambda: self._publisher)
        if self.app.finalized:
            self.app.register_task(Deliver())
        else:
            # Registering binds the task to the app's settings, which may not be there yet.
            self.app.on_after_finalize.connect(lambda **_: self.app.register_task(Deliver()), weak=False)
        # Both: the first is the process itself (threads, solo, gevent), the second each child of prefork.
        # Weak: the app keeps this Rebound alive, and a signal should not keep the app.
        signals.worker_shutdown.connect(self._close_destinations)
        signals.worker_process_shutdown.connect(self._close_destinations)

    def _close_destinations(self, **_: Any) -> None:
        self._destinations.close()

    def _turn_on_events(self) -> None:
        """Let Flower see retries, unless the app says otherwise: without events it shows nothing."""
        conf = self.app.conf
        for name in ("worker_send_task_events", "task_send_sent_event"):
            if not _is_set(self.app, name):
                conf[name] = True

    def _schedule_options(self) -> dict[str, Any]:
        settings = self.settings
        # On rebound's own queue every message goes through the schedule: a list with BRPOP can lose one.
        return {
            "leased": (settings.queue,),
            "lease": settings.lease,
            "max_losses": settings.max_worker_losses,
            "health_file": settings.health_file,
        }

    # What users call

    def schedule_retry(self, destination: object = None, message_data: object = None, **options: Any) -> AsyncResult:
        """Deliver a message later: after `base_delay * 2**(attempt-1)` seconds, until its retries are spent.

        Args:
            destination: `kafka://topic`, `kafka://host:port/topic`, `http(s)://...`, or a mapping with `topic`
                (and `host`, `port`) or `url`.
            message_data: bytes as they are; text as UTF-8; None as a Kafka record without value (an empty body over
                HTTP); anything else as JSON.
            id: a stable name for the message, which receivers see as `rebound-id`; None makes one.
            key: the record's key, bytes or text; None for none. Over HTTP it is the header `X-Message-Key`.
            headers: a mapping or pairs; text values become UTF-8.
            max_retries: 0 to 100; None means the app's `rebound_max_retries`. With 0 it is a dead letter at once.
            base_delay: 1 to 3600 seconds; None means the app's `rebound_base_delay`.
            destination_type: "kafka" or "http", where the caller wants it checked; with "kafka" the destination may be
                a bare topic name.
            dead_destination: where it goes when given up, like `destination`. None means `{topic}-dlq` for Kafka, and
                the dead set in Redis for HTTP.
            source, client_id: free words that travel along as headers.
            is_priority: whether it is taken before others that are due.
            error: why the attempt failed, an exception or a text; a dead letter carries it.
            attempt: which attempt has failed; 1 is the first.

        Returns:
            Celery's AsyncResult of the delivery task.

        Raises:
            InvalidSettingError: naming field, value and limits; nothing is stored then.
            NotStoredError: if Redis does not take it (a kombu OperationalError too, as from `apply_async`).
        """
        request = RetryRequest.from_mapping({"destination": destination, "message_data": message_data, **options})
        message, due_ms = request.to_message(self.settings, SYSTEM_CLOCK.now_ms())
        if self.app.conf.task_always_eager:
            return self._task.apply(args=(message.to_wire(),), task_id=message.task_id)
        self._publisher.publish([(message, due_ms)], priority=_priority(request))
        return self._result(message)

    def schedule_retries(
        self, requests: Iterable[RetryRequest | Mapping[str, Any]]
    ) -> list[AsyncResult | ReboundError]:
        """Schedule many messages in few round trips.

        Args:
            requests: one for each message: a RetryRequest, or a mapping of the arguments of `schedule_retry`.

        Returns:
            For each message, in order: its AsyncResult, or the error that kept it from being stored. One bad message
            does not stop the others. A NotStoredError leaves open whether that message is stored: schedule it again
            with the same `id`.
        """
        outcomes: list[AsyncResult | ReboundError] = []
        chunk: list[tuple[int, Message, int, int]] = []
        for position, arguments in enumerate(requests):
            try:
                request = arguments if isinstance(arguments, RetryRequest) else RetryRequest.from_mapping(arguments)
                message, due_ms = request.to_message(self.settings, SYSTEM_CLOCK.now_ms())
            except ReboundError as error:
                outcomes.append(error)
                continue
            outcomes.append(self._result(message))
            chunk.append((position, message, due_ms, _priority(request)))
            if len(chunk) >= _CHUNK:
                self._store_chunk(chunk, outcomes)
                chunk = []
        self._store_chunk(chunk, outcomes)
        return outcomes

    def _store_chunk(
        self, chunk: Sequence[tuple[int, Message, int, int]], outcomes: list[AsyncResult | ReboundError]
    ) -> None:
        for priority in (PRIORITY_HIGH, PRIORITY_NORMAL):
            batch = [item for item in chunk if item[3] == priority]
            try:
                self._publisher.publish([(message, due_ms) for _, message, due_ms, _ in batch], priority=priority)
            except ReboundError as error:
                for position, *_ in batch:
                    outcomes[position] = error

    def _result(self, message: Message) -> AsyncResult:
        return self.app.AsyncResult(message.task_id)

    @property
    def _task(self) -> Any:
        return self.app.tasks[DeliverTask.name]

    # What the consumer calls (installed.RetryScheduler)

    def store(self, retries: Sequence[tuple[Message, int]]) -> None:
        """Store messages, each with its due time in Unix milliseconds; see `RetryScheduler.store`."""
        self._publisher.publish(retries)

    def check_redis(self) -> None:
        """Raise UnreachableError with the address if Redis does not answer."""
        self._publisher.check()


def schedule_retry(destination: object = None, message_data: object = None, **options: Any) -> AsyncResult:
    """`Rebound.schedule_retry` of Celery's current app; see there.

    Raises:
        NotInstalledError: if the current app has no Rebound.
    """
    return _current().schedule_retry(destination, message_data, **options)


def schedule_retries(requests: Iterable[RetryRequest | Mapping[str, Any]]) -> list[AsyncResult | ReboundError]:
    """`Rebound.schedule_retries` of Celery's current app; see there.

    Raises:
        NotInstalledError: if the current app has no Rebound.
    """
    return _current().schedule_retries(requests)


_SETTING_NAMES = [PREFIX + setting.name for setting in fields(Settings)]


def _current() -> Rebound:
    return cast(Rebound, registry.find())


def _priority(request: RetryRequest) -> int:
    return PRIORITY_HIGH if request.is_priority else PRIORITY_NORMAL


def _make_amqp(amqp_cls: Any, app: Celery) -> Any:
    """The app's AMQP with rebound's queue among its queues, whenever and however often it makes them."""
    amqp = symbol_by_name(amqp_cls)(app)
    rebound = getattr(app, "rebound", None)
    if isinstance(rebound, Rebound):  # an app that was unpickled has none until its module is imported
        make_queues = amqp.Queues
        amqp.Queues = lambda *args, **kwargs: rebound._declare(make_queues(*args, **kwargs))  # noqa: SLF001
    return amqp


def _when_configured(app: Celery, call: Any) -> None:
    """Call now if the app is configured, and whenever it reads its configuration (again)."""
    if app.configured:
        call()
    app.on_after_configure.connect(lambda **_: call(), weak=False)


def _is_set(app: Celery, name: str) -> bool:
    """Whether the app's user has set this Celery setting, under whichever of its names."""
    names = {name, name.upper()}
    if app.namespace:
        names.add(f"{app.namespace}_{name}".upper())
    return any(candidate in layer for layer in (app.conf.changes, app.loader.conf or {}) for candidate in names)
