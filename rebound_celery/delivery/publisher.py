"""Storing deliveries in the schedule, with the signals and events that Celery's own publishing has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakSet

from kombu.common import maybe_declare
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from ..broker import has_schedule, require_redis, shown_broker
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import NotStoredError, ReboundError, UnreachableError
from ..message import Message, codec
from ..schedule.port import Combiner, Entry, Schedule, open_schedule
from .delivery import Delivery
from .form import DeliveryForm
from .sent_events import SentEvents
from .unclaimed import UnclaimedWatch

#: From so many deliveries on, entries are made one by one while Redis works on those before.
_MANY = 100

#: How many messages are compressed in one call.
_SEALED_AT_ONCE = 500

FAULTS = (KombuError, RedisError, OSError)


@dataclass(slots=True)
class _Call:
    """What one call of `publish` stores.

    Attributes:
        deliveries: all of them.
        packed: each packed already; None where they are so many that they are packed while Redis works.
        error: why they are not stored.
    """

    deliveries: Sequence[Delivery]
    packed: list[bytes] | None
    error: BaseException | None = None


#: All publishers of this process, for what a forked child has to forget, and what was forgotten.
_publishers: WeakSet[Publisher] = WeakSet()
_inherited: list[_Open] = []


class Publisher:
    """Stores deliveries over a connection of its own to the app's broker; safe for threads and forks.

    Threads that store at the same time share a round trip.

    Args:
        app: the Celery app. Nothing is read from it before the first use.
        queue: tells the name of the queue that rebound's workers consume.
        form: makes the Celery messages of deliveries.
        clock: tells the time.
    """

    def __init__(self, app: Any, queue: Callable[[], str], form: DeliveryForm, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._app = app
        self._queue = queue
        self._form = form
        self._clock = clock
        self._events = SentEvents(app, queue, clock)
        self._unclaimed = UnclaimedWatch(clock)
        self._combiner: Combiner[_Call] = Combiner(self._run)
        #: Used by one thread at a time, which the combiner sees to.
        self._open: _Open | None = None
        #: Whether the app's broker has the schedule; None until it was asked.
        self._has_schedule: bool | None = None
        _publishers.add(self)

    def publish_messages(self, messages: Iterable[tuple[Message, int, int]]) -> None:
        """Store messages, each with its due time in Unix milliseconds and its priority; see `publish`.

        They become children of the Celery task that runs in this thread, if one does, as with `apply_async`.
        """
        parent = self._app.current_worker_task
        root_id = parent_id = None
        if parent is not None:
            root_id, parent_id = parent.request.root_id or parent.request.id, parent.request.id
        reply_to = self._app.thread_oid if self._replies else None
        self.publish(
            [
                Delivery(message, message.task_id, due_ms, priority, root_id, parent_id, reply_to)
                for message, due_ms, priority in messages
            ]
        )

    def publish(self, deliveries: Sequence[Delivery]) -> None:
        """Store deliveries; returns once Redis has all of them.

        An entry of the same task id is replaced. A due time that has passed means at once.

        Raises:
            NotStoredError: if Redis is away or refuses; any of them may be stored.
            UnsupportedBrokerError: if the app has another broker than Redis.
        """
        if not deliveries:
            return
        try:
            if self.replaces():
                self._store(deliveries)
            else:
                self._publish_plainly(deliveries)
        except FAULTS as error:
            raise NotStoredError(f"Redis at {self.address} did not take the retry: {error}") from error

    def replaces(self) -> bool:
        """Whether a delivery that is stored again replaces the earlier one: on a broker that has the schedule."""
        if self._has_schedule is None:
            self._has_schedule = has_schedule(self._app)
        return self._has_schedule

    def check(self) -> None:
        """Ask Redis for an answer.

        Raises:
            UnreachableError: with the address that was tried.
        """
        try:
            with self.open() as schedule:
                schedule.ping()
        except FAULTS as error:
            raise UnreachableError("Redis", self.address, error) from error

    def warn_if_unclaimed(self) -> None:
        """Do what `publish` does beside storing: log a warning if it is time to look and nobody claims what is due."""
        if not self._unclaimed.is_time:
            return
        with suppress(ReboundError, *FAULTS):
            if self._has_schedule is None:
                self._has_schedule = has_schedule(self._app)
            if self._has_schedule:
                self._combiner.call(_Call((), []))

    def open(self) -> AbstractContextManager[Schedule]:
        """The schedule of rebound's queue over a new connection, for rare calls.

        Raises:
            UnsupportedBrokerError: if the app has another broker than Redis.
        """
        require_redis(self._app)
        return open_schedule(self._app, self._queue())

    def close(self) -> None:
        """Close the connection. A closed publisher may be used again; it connects anew."""
        if self._open is not None:
            self._open.close()
        self._open = None

    def forget_connection(self) -> None:
        """Forget what belongs to the parent of a forked process: its socket, and locks that its threads held."""
        if self._open is not None:
            # Its end would close it as if it were this process's.
            _inherited.append(self._open)
        self._open, self._combiner = None, Combiner(self._run)

    @property
    def address(self) -> str:
        """The broker's URL without its password."""
        return shown_broker(self._app)

    @cached_property
    def _replies(self) -> bool:
        """Whether the app's results are sent as messages to whoever scheduled the task."""
        return str(self._app.conf.result_backend or "").startswith("rpc")

    # A broker with the schedule

    def _store(self, deliveries: Sequence[Delivery]) -> None:
        last = self._before_publish(deliveries) if self._form.is_listened_to else None
        # Few are packed here, so that what cannot be packed is no other caller's fault.
        packed = [delivery.pack() for delivery in deliveries] if len(deliveries) < _MANY else None
        call = _Call(deliveries, packed)
        self._combiner.call(call)
        if call.error is not None:
            raise call.error
        if last is not None:
            last()

    def _before_publish(self, deliveries: Sequence[Delivery]) -> Callable[[], None] | None:
        """Send the signals of each delivery. They come in pairs: after each message, before the next one.

        Returns what sends the last signal, which is left to send once all are stored.
        """
        now_ms = self._clock.now_ms()
        last: Callable[[], None] | None = None
        for delivery in deliveries:
            if last is not None:
                last()
            last = self._form.before_publish(delivery, now_ms)
        return last

    def _run(self, calls: Sequence[_Call]) -> None:
        """Store what several threads' calls hold; sets the error of each call that is not stored."""
        few = [call for call in calls if call.packed is not None]
        for group in (few, *([call] for call in calls if call.packed is None)):
            if not group:
                continue
            try:
                self._enqueue(group)
            except BaseException as error:  # noqa: BLE001 - raised in the thread of each call
                for call in group:
                    call.error = error

    def _enqueue(self, calls: Sequence[_Call]) -> None:
        if self._open is None:
            self._open = _Open(self.open())
        schedule = self._open.schedule
        try:
            deliveries = calls[0].deliveries if len(calls) == 1 else [one for call in calls for one in call.deliveries]
            packed = None if calls[0].packed is None else [one for call in calls for one in call.packed or ()]
            commands: list[list[Any]] = []
            if deliveries and self._events.are_wanted():
                commands = self._events.commands(schedule, deliveries)
            schedule.enqueue(_entries(deliveries, packed), piggybacked=commands)
            if self._unclaimed.is_time and not self._unclaimed.look(schedule):
                self.close()
        except BaseException:
            # Its connection may be amid an answer.
            self.close()
            raise

    # A broker without it

    def _publish_plainly(self, deliveries: Sequence[Delivery]) -> None:
        now_ms = self._clock.now_ms()
        queue = self._queue()
        with self._app.connection_for_write() as connection:
            channel = connection.default_channel
            for delivery in deliveries:
                tell_published = self._form.before_publish(delivery, now_ms)
                channel.basic_publish(self._form.as_task(delivery, now_ms), exchange="", routing_key=queue)
                if tell_published is not None:
                    tell_published()
            if self._events.are_wanted():
                with suppress(*FAULTS):  # what the events tell of is published by now
                    for event, exchange, key in self._events.messages(deliveries):
                        maybe_declare(exchange, channel)
                        channel.basic_publish(event, exchange=exchange.name, routing_key=key)


class _Open:
    """A schedule that is kept open for many calls."""

    def __init__(self, context: AbstractContextManager[Schedule]) -> None:
        self._context = context
        self.schedule = context.__enter__()

    def close(self) -> None:
        with suppress(*FAULTS):
            self._context.__exit__(None, None, None)


def _forget_connections() -> None:
    for publisher in list(_publishers):
        publisher.forget_connection()


os.register_at_fork(after_in_child=_forget_connections)


def _entries(deliveries: Sequence[Delivery], packed: list[bytes] | None) -> Iterator[Entry]:
    """The entry of each delivery. They are sealed many at a time, and asked for while Redis works on those before."""
    for start in range(0, len(deliveries), _SEALED_AT_ONCE):
        some = deliveries[start : start + _SEALED_AT_ONCE]
        if packed is None:
            forms = codec.seal_many([delivery.pack() for delivery in some])
        else:
            forms = codec.seal_many(packed[start : start + _SEALED_AT_ONCE])
        for delivery, stored in zip(some, forms, strict=True):
            yield Entry(delivery.task_id, delivery.due_ms, stored, delivery.lane, delivery.priority)
