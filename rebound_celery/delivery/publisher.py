"""Storing deliveries in the schedule, with the signals and events that Celery's own publishing has."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from ..broker import has_schedule, require_redis, shown_broker
from ..clock import SYSTEM_CLOCK, Clock
from ..errors import NotStoredError, ReboundError, UnreachableError
from ..limits import UniqueRule
from ..message import Message
from ..schedule.port import Combiner, Hold, Schedule, Tally, Unique, open_schedule
from .delivery import Delivery
from .entries import entries_of
from .form import DeliveryForm
from .lanes import ENDED, RatedLanes
from .new_deliveries import NewDeliveries, tell_before
from .opened import OpenedSchedule
from .plainly import FAULTS, publish_plainly
from .rates import Rates
from .sent_events import SentEvents
from .unclaimed import UnclaimedWatch

#: From so many deliveries on, entries are made one by one while Redis works on those before.
_MANY = 100


@dataclass(slots=True)
class _Call:
    """What one call of `publish` stores.

    Attributes:
        deliveries: all of them.
        packed: each packed already; None where they are so many that they are packed while Redis works, and where they
            are unique.
        uniques: for each that only one with its key may wait; None if that is so for none.
        hold: that they are held, or cease to be; None if they wait.
        tally: what is added to the counters with them; not for unique ones.
        ids: of unique ones, the ids of the tasks that wait.
        error: why they are not stored.
    """

    deliveries: Sequence[Delivery]
    packed: list[bytes] | None
    uniques: Sequence[Unique] | None = None
    hold: Hold | None = None
    tally: Tally | None = None
    ids: list[str] = field(default_factory=list)
    error: BaseException | None = None


#: All publishers of this process, for what a forked child has to forget, and what was forgotten.
_publishers: WeakSet[Publisher] = WeakSet()
_inherited: list[OpenedSchedule] = []


class Publisher:
    """Stores deliveries over a connection of its own to the app's broker; safe for threads and forks.

    Threads that store at the same time share a round trip.

    Args:
        app: the Celery app. Nothing is read from it before the first use.
        queue: tells the name of the queue that rebound's workers consume.
        form: makes the Celery messages of deliveries.
        lanes: the lanes of messages, and their rates; None for the usual ones without rates.
        clock: tells the time.
    """

    def __init__(
        self,
        app: Any,
        queue: Callable[[], str],
        form: DeliveryForm,
        *,
        lanes: RatedLanes | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._app = app
        self._queue = queue
        self._form = form
        self._clock = clock
        self._new = NewDeliveries(app, clock)
        self._rates = Rates(lanes or RatedLanes(lambda: None), clock)
        self._events = SentEvents(app, queue, clock)
        self._unclaimed = UnclaimedWatch(clock)
        self._combiner: Combiner[_Call] = Combiner(self._run)
        #: Used by one thread at a time, which the combiner sees to.
        self._open: OpenedSchedule | None = None
        #: Whether the app's broker has the schedule; None until it was asked.
        self._has_schedule: bool | None = None
        #: Opens another schedule than the one in Redis.
        self._opener: Callable[[], AbstractContextManager[Schedule]] | None = None
        _publishers.add(self)

    def publish_messages(self, messages: Iterable[tuple[Message, int, int]]) -> None:
        """Store messages, each with its due time in Unix milliseconds and its priority; see `publish`.

        They become children of the Celery task that runs in this thread, if one does, as with `apply_async`.
        """
        self.publish(self._new.of(messages))

    def publish_unique(self, messages: Iterable[tuple[Message, int, int]], rules: Sequence[UniqueRule]) -> list[str]:
        """Store messages of which only one with the same unique key may wait; see `publish_messages`.

        Returns for each the id of the task that waits: its own, or that of one that waited already. With a broker that
        keeps nothing all of them are published.
        """
        deliveries = self._new.of(messages)
        return self.publish(deliveries, [Unique(*rule, ENDED) for rule in rules]) if deliveries else []

    def publish(
        self,
        deliveries: Sequence[Delivery],
        uniques: Sequence[Unique] | None = None,
        *,
        hold: Hold | None = None,
        tally: Tally | None = None,
    ) -> list[str]:
        """Store deliveries; returns once Redis has all of them, with the ids of their tasks.

        An entry of the same task id is replaced. A due time that has passed means at once. With `uniques`, one for each
        delivery, an entry with the same unique key can take the place of a delivery. With `hold` they do not wait: see
        `Hold`; this is for a broker with the schedule. So is `tally`, which is added to the counters in the same step.

        Raises:
            NotStoredError: if Redis is away or refuses; any of them may be stored.
            UnsupportedBrokerError: if the app has another broker than Redis.
        """
        if not deliveries:
            return []
        try:
            if self.replaces():
                return self._store(deliveries, uniques, hold, tally)
            publish_plainly(self._app, self._queue(), self._form, self._events, deliveries, self._clock.now_ms())
            return [delivery.task_id for delivery in deliveries]
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
            if self.replaces():
                self._combiner.call(_Call((), []))

    def open(self) -> AbstractContextManager[Schedule]:
        """The schedule of rebound's queue over a new connection, for rare calls.

        Raises:
            UnsupportedBrokerError: if the app has another broker than Redis.
        """
        if self._opener is not None:
            return self._opener()
        require_redis(self._app)
        return open_schedule(self._app, self._queue())

    @contextmanager
    def opened_by(self, opener: Callable[[], AbstractContextManager[Schedule]]) -> Iterator[None]:
        """Let another schedule take the place of the one in Redis, for tests."""
        earlier = self._opener, self._has_schedule
        self.close()
        self._opener, self._has_schedule = opener, True
        try:
            yield
        finally:
            self.close()
            self._opener, self._has_schedule = earlier

    @property
    def is_replaced(self) -> bool:
        """Whether another schedule takes the place of the one in Redis, for tests."""
        return self._opener is not None

    def close(self) -> None:
        """Close the connection. A closed publisher may be used again; it connects anew."""
        if self._open is not None:
            self._open.close()
        self._open = None
        self._rates.forget()

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

    # A broker with the schedule

    def _store(
        self,
        deliveries: Sequence[Delivery],
        uniques: Sequence[Unique] | None,
        hold: Hold | None,
        tally: Tally | None,
    ) -> list[str]:
        form, now_ms = self._form, self._clock.now_ms()
        last = tell_before(form, deliveries, now_ms) if form.is_listened_to else None
        # Few are packed here, so that what cannot be packed is no other caller's fault.
        is_few = len(deliveries) < _MANY and uniques is None and hold is None
        packed = [delivery.pack() for delivery in deliveries] if is_few else None
        call = _Call(deliveries, packed, uniques, hold, tally)
        self._combiner.call(call)
        if call.error is not None:
            raise call.error
        if last is not None:
            last()
        return call.ids if uniques is not None else [delivery.task_id for delivery in deliveries]

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
            self._open = OpenedSchedule(self.open())
        schedule = self._open.schedule
        try:
            if calls[0].uniques is not None:
                calls[0].ids = self._enqueue_unique(schedule, calls[0].deliveries, calls[0].uniques)
                return
            deliveries = calls[0].deliveries if len(calls) == 1 else [one for call in calls for one in call.deliveries]
            packed = None if calls[0].packed is None else [one for call in calls for one in call.packed or ()]
            commands: list[list[Any]] = []
            if deliveries and self.wants_events():
                commands = self._events.commands(schedule, deliveries)
            lanes = self._rates.lanes_of(deliveries, schedule)
            entries = entries_of(deliveries, packed, lanes, self._form.keys())
            tally = Tally.sum(call.tally for call in calls)
            schedule.enqueue(entries, piggybacked=commands, hold=calls[0].hold, tally=tally)
            if self._unclaimed.is_time and not self._unclaimed.look(schedule):
                self.close()
        except BaseException:
            # Its connection may be amid an answer.
            self.close()
            raise

    def wants_events(self) -> bool:
        """Whether anybody is told of what is stored. Another schedule than the one in Redis has no listeners."""
        return self._opener is None and self._events.are_wanted()

    def _enqueue_unique(
        self, schedule: Schedule, deliveries: Sequence[Delivery], uniques: Sequence[Unique]
    ) -> list[str]:
        lanes = self._rates.lanes_of(deliveries, schedule)
        entries = zip(entries_of(deliveries, None, lanes, self._form.keys()), uniques, strict=True)
        ends = schedule.enqueue_unique(list(entries))
        if not all(end.event for end in ends):
            raise NotStoredError(f"Redis at {self.address}: the message with this unique key changes all the time")
        # What was not stored, or took the place of another, has no task of its own.
        new = [delivery for delivery, end in zip(deliveries, ends, strict=True) if end.event == "stored"]
        if new and self.wants_events():
            schedule.send_commands(self._events.commands(schedule, new))
        return [end.id for end in ends]


def _forget_connections() -> None:
    for publisher in list(_publishers):
        publisher.forget_connection()


os.register_at_fork(after_in_child=_forget_connections)
