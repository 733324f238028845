"""`Rebound(app)`: the one place where the parts are put together on a Celery app."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import fields
from functools import cached_property, partial
from typing import Any, Literal

from celery import Celery, signals
from celery.result import AsyncResult

from . import registry
from .celery_conf import prepare, warn_of_unknown_settings, when_finalized
from .clock import SYSTEM_CLOCK, Clock
from .config import PREFIX, SETTING_NAMES, Settings
from .consumer import ConsumerDeclarations, Declared
from .copies import keep_in_copies
from .delivery.chains import Chains
from .delivery.collector import spare_what_is_loaded
from .delivery.delivery import PRIORITY_NORMAL
from .delivery.form import DeliveryForm
from .delivery.lanes import RatedLanes
from .delivery.opened import Destinations, OpenedDestinations
from .delivery.outage_mode import OutageMode
from .delivery.own_queue import add_queue
from .delivery.publisher import Publisher
from .delivery.task import DeliverTask
from .destinations import kinds
from .endpoints.events import tell_disabled
from .environment import misspelt_variables
from .errors import InvalidSettingError
from .message import Message, codec
from .message.encryption import KeyRing
from .operator_views import OperatorViews
from .other_consumers import FailureHandling
from .policy import RetryPolicy
from .requests import Destination, RetryRequest, merged_value
from .schedule import install_schedule
from .schedule.port import Schedule, ScheduleOptions
from .scheduled import Scheduled
from .scheduling import Scheduling
from .shown import shown_url
from .values import Name


class Rebound(FailureHandling, ConsumerDeclarations, OperatorViews):
    """Retries with backoff and dead letters for a Celery app.

    `Rebound(app)` adds two tasks, `rebound.deliver` and `rebound.job`, and one queue, which every plain
    `celery -A ... worker` of this app then consumes. Workers of an app without Rebound never see that queue. Nothing
    connects, and no setting is read, until the app is used: settings may come later, as with Django.

    Args:
        app: the Celery app, with a Redis broker.
        clock: tells the time; tests pass another.
        **settings: `rebound_*` settings without that prefix, for this app; they win over its configuration.
            See `Settings` for all of them.

    Raises:
        InvalidSettingError: for an unknown setting, and for an app that has a Rebound already.
    """

    def __init__(self, app: Celery, *, clock: Clock = SYSTEM_CLOCK, **settings: Any) -> None:
        unknown = set(settings) - {setting.name for setting in fields(Settings)}
        if unknown:
            first = sorted(unknown)[0]
            raise InvalidSettingError(first, shown_url(settings[first]), "there is no such setting")
        registry.check_app(app)
        self.app = app
        self.clock = clock
        self._overrides = {PREFIX + name: value for name, value in settings.items()}
        self._destinations = OpenedDestinations(self._build_destinations)

        def queue() -> str:
            return self.settings.queue

        def keys() -> KeyRing:
            return self.settings.encryption_keys

        lanes = RatedLanes(lambda: self.settings.rates)
        self._form = DeliveryForm(app, queue, keys)
        self._publisher = Publisher(app, queue, self._form, lanes=lanes, clock=clock)
        self._scheduling = Scheduling(app, lambda: self.settings, self._publisher, clock)
        self._outage_mode = OutageMode(lambda: self.settings, lanes, self._publisher.open, clock)
        #: The keys that wait in order behind a record that failed; see `ordering` of ConsumerConfig.
        self.chains = Chains(app, queue, self._form, self._publisher, lanes, lambda: self.settings.lease, clock=clock)
        self._add_views(app, lambda: self.settings, self._publisher, lanes, self.store, clock)
        install_schedule(app, self._schedule_options, in_copies=False)
        registry.install(app, self)
        add_queue(app)
        self._add_task()
        keep_in_copies(app, partial(_copy_onto, type(self), self.declared, clock, settings))
        prepare(app)

    # What is read and made when first needed

    @cached_property
    def settings(self) -> Settings:
        """The app's settings, read and checked when first asked for.

        Raises:
            InvalidSettingError: naming the setting, its value, and what is allowed.
        """
        warn_of_unknown_settings(self.app, PREFIX, SETTING_NAMES, misspelt_variables())
        return Settings.read({**{name: self.app.conf.get(name) for name in SETTING_NAMES}, **self._overrides})

    def _build_destinations(self) -> Destinations:
        has_schedule, tell = self._publisher.replaces(), partial(tell_disabled, self)
        return kinds.build(self.settings, self._publisher.open, tell, has_schedule=has_schedule)

    def close(self) -> None:
        """Close what this process has opened: its connections to Redis, Kafka and HTTP receivers.

        Workers and consumers do it when they stop. A closed Rebound may be used again; it connects anew.
        """
        self._close_destinations()
        self._publisher.close()
        self.chains.close()

    @contextmanager
    def replaced(
        self, open_schedule: Callable[[], AbstractContextManager[Schedule]], destinations: Destinations
    ) -> Iterator[None]:
        """Let another schedule and other destinations take the place of Redis, Kafka and HTTP, for tests."""
        self.chains.close()
        with self._publisher.opened_by(open_schedule), self._destinations.replaced(destinations), closing(self.chains):
            yield

    # What is added to the app

    def _add_task(self) -> None:
        class Deliver(DeliverTask):
            """Rebound's delivery task, bound to this app's destinations and settings."""

        Deliver.destinations = self._destinations
        Deliver.read_settings = staticmethod(lambda: self.settings)
        Deliver.publisher = staticmethod(lambda: self._publisher)
        Deliver.chains = staticmethod(lambda: self.chains)
        Deliver.form = self._form
        Deliver.outage_mode = self._outage_mode
        Deliver.clock = self.clock
        # Registering binds the task to the app's settings, which may not be there yet.
        when_finalized(self.app, lambda: self.app.register_task(Deliver()))
        when_finalized(self.app, self.jobs.register)
        # The first is the process itself (threads, solo, gevent), the second each child of prefork. Both are weak: the
        # app keeps this Rebound alive, and a signal should not keep the app.
        signals.worker_shutdown.connect(self._close_destinations)
        signals.worker_process_shutdown.connect(self._close_destinations)
        signals.worker_init.connect(self._prepare_worker)
        signals.worker_init.connect(spare_what_is_loaded)

    def _prepare_worker(self, sender: Any = None, **_: Any) -> None:
        if sender.app is self.app:
            codec.load()
            kinds.check_start(self.settings)

    def _close_destinations(self, **_: Any) -> None:
        self._destinations.close()
        self._outage_mode.close()

    def _schedule_options(self) -> ScheduleOptions:
        settings = self.settings
        return ScheduleOptions(
            # On rebound's own queue every message goes through the schedule: a list with BRPOP can lose one.
            leased={settings.queue: self._form},
            lease_s=settings.lease,
            max_worker_losses=settings.max_worker_losses,
            health_file=settings.health_file,
            dead_letter_ttl_s=settings.dead_letter_ttl,
            closes_breakers=settings.breaker is None,
        )

    # What users call

    def schedule_retry(
        self,
        destination: Destination,
        value: object = None,
        *,
        id: Name | None = None,  # noqa: A002 - the field's own word
        key: bytes | Name | None = None,
        headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        max_retries: int | None = None,
        base_delay: float | None = None,
        policy: RetryPolicy | Mapping[str, Any] | None = None,
        destination_type: Literal["kafka", "http"] | None = None,
        dead_destination: Destination | None = None,
        source: object = None,
        client_id: Name | None = None,
        is_priority: bool = False,
        error: BaseException | str | None = None,
        attempt: int | None = None,
        delay: float | None = None,
        unique_key: Name | None = None,
        unique: Literal["replace", "keep", "extend"] = "replace",
        max_wait: float | None = None,
        message_data: object = None,
    ) -> AsyncResult:
        """Deliver a message later: after `base_delay * 2**(attempt-1)` seconds, until its retries are spent.

        Args:
            destination: `kafka://topic`, `kafka://host:port/topic`, `http(s)://...`, or a mapping with `topic`
                (and `host`, `port`) or `url`.
            value: bytes as they are; text as UTF-8; None as a Kafka record without value (an empty body over HTTP);
                anything else as JSON, in which UUID, Decimal and datetime have the form that Celery gives them.
            id: a stable name for the message, which receivers see as `rebound-id`; None makes one.
            key: the record's key: bytes, text, a number or a UUID; None for none. Over HTTP it is `X-Message-Key`.
            headers: a mapping or pairs; values that are text, numbers or UUIDs become UTF-8.
            max_retries: 0 to 100; None means what the app's policy for the destination says: `rebound_policies`, or
                else `rebound_max_retries`. With 0 it is a dead letter at once.
            base_delay: 1 to 3600 seconds; None means the same.
            policy: a RetryPolicy, or a mapping with its options, in place of all of these.
            destination_type: "kafka" or "http", to have it checked; with "kafka", `destination` may be a topic's name.
            dead_destination: where it goes when given up, like `destination`. None means `{topic}-dlq` for Kafka, and
                the dead set in Redis for HTTP.
            source, client_id: free words that travel along as headers.
            is_priority: whether it is taken before others that are due.
            error: why the attempt failed, an exception or a text; a dead letter carries it.
            attempt: which attempt has failed; 1 is the first, and what None means.
            delay: seconds until the first delivery, from 0, which is at once; None means what the policy says. With a
                delay of its own or of the policy (`first_delay`), and neither `error` nor `attempt`, nothing has failed
                yet: the first delivery is attempt 1.
            unique_key: of the messages with this key only one waits; see `RetryRequest` for these three.
            unique: what is done if one waits already: "replace", "keep" or "extend".
            max_wait: with "extend", the longest time that further messages can put it off, in seconds.
            message_data: another name for `value`.

        Returns:
            Celery's AsyncResult of the delivery task; with a unique key, of the task that waits. If a rule of the
            policy drops the message, nothing is stored, and the result's `get()` returns None at once.

        Raises:
            InvalidSettingError: naming field, value and limits; nothing is stored then.
            NotStoredError: if Redis does not take it (a kombu OperationalError too, as from `apply_async`).
        """
        return self.schedule(
            RetryRequest(
                destination=destination,
                value=merged_value(value, message_data),
                id=id,
                key=key,
                headers=headers,
                max_retries=max_retries,
                base_delay=base_delay,
                policy=policy,
                destination_type=destination_type,
                dead_destination=dead_destination,
                source=source,
                client_id=client_id,
                is_priority=is_priority,
                error=error,
                attempt=attempt,
                delay=delay,
                unique_key=unique_key,
                unique=unique,
                max_wait=max_wait,
            )
        )

    def schedule(self, request: RetryRequest) -> AsyncResult:
        """Schedule one retry; see `schedule_retry`, whose arguments are the fields of `request`."""
        return self._scheduling.schedule(request)

    def schedule_retries(self, requests: Iterable[Mapping[str, Any] | RetryRequest]) -> Scheduled:
        """Schedule many messages in few round trips.

        Args:
            requests: for each message the arguments of `schedule_retry` as a mapping, or a RetryRequest. One message
                alone, in place of several, is an InvalidSettingError.

        Returns:
            A sequence that has for each message, in order, its AsyncResult, or the error that kept it from being
            stored. One bad message does not stop the others. A NotStoredError leaves open whether that message is
            stored: schedule it again with the same `id`. A log line counts the errors.
        """
        return self._scheduling.schedule_retries(requests)

    # What the consumer calls; `registry.RetryScheduler` describes it

    def store(self, retries: Sequence[tuple[Message, int]]) -> None:
        self._publisher.publish_messages([(message, due_ms, PRIORITY_NORMAL) for message, due_ms in retries])

    def check_redis(self) -> None:
        self._publisher.check()

    def warn_if_unclaimed(self) -> None:
        self._publisher.warn_if_unclaimed()


def _copy_onto(kind: type[Rebound], declared: Declared, clock: Clock, settings: Mapping[str, Any], app: Celery) -> None:
    """Give a copy of an app a Rebound of its own, which brings the schedule, with the same settings and consumers."""
    kind(app, clock=clock, **settings).declared.update(declared)
