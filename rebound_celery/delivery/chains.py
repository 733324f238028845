"""Chains of deliveries: what the consumer asks for order, and what the delivery says when one of them has died."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import NotStoredError, UnknownVersionError, WireFormatError
from ..message import Message, codec
from ..message.encryption import KeyRing
from ..message.ids import new_id
from ..registry import ChainAnswer, ChainChange
from ..schedule.port import Answer, Chain, Do, Entry, Schedule, Step
from .delivery import Delivery
from .form import DeliveryForm
from .lanes import RatedLanes
from .new_deliveries import note_waits
from .opened import OpenedSchedule
from .plainly import FAULTS
from .publisher import Publisher
from .rates import Rates
from .sent_events import SentEvents


class Chains:
    """The chains in rebound's queue.

    Args:
        app: the Celery app.
        queue: tells the name of the queue.
        form: makes the Celery messages of deliveries.
        publisher: opens the schedule of the queue, and says whether anybody is told of what is stored.
        lanes: the lanes of messages, and their rates.
        hold_s: tells for how long a consumer has a message that it takes, in seconds.
        clock: tells the time.
    """

    def __init__(
        self,
        app: Any,
        queue: Callable[[], str],
        form: DeliveryForm,
        publisher: Publisher,
        lanes: RatedLanes,
        hold_s: Callable[[], float],
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._app = app
        self._form = form
        self._publisher = publisher
        self._hold_s = hold_s
        self._clock = clock
        #: Used under the lock.
        self._rates = Rates(lanes, clock)
        self._events = SentEvents(app, queue, clock)
        self._lock = threading.Lock()
        self._open: OpenedSchedule | None = None
        self._pid = 0

    def page(self, prefix: str = "", after: str = "", count: int = 100) -> list[Chain]:
        """Return chains with waiting messages, by their names.

        Args:
            prefix: what their names begin with: `group/topic/partition/key`, each part as in a URL.
            after: the last name of the page before.
            count: the largest number of chains.

        Raises:
            NotStoredError: if Redis is away or refuses.
        """
        return list(self._once(lambda schedule: schedule.chains(prefix, after, count)))

    def names(self, prefix: str, after: str = "") -> list[str]:
        """Return the names of at most 500 chains."""
        return list(self._once(lambda schedule: schedule.chain_names(prefix, after)))

    def release(self, name: str) -> int:
        """Let a chain go on without its head: a dead letter that holds it, or a retry that nobody will handle.

        Returns:
            how many messages the chain had, with its head; 0 if there is no such chain.

        Raises:
            NotStoredError: if Redis is away or refuses.
        """
        (answer,) = self._once(lambda schedule: schedule.chain([Step(Do.RELEASE, name, 0, 0)], new_id(), 0))
        return int(answer.is_open)

    def break_up(self, prefix: str) -> int:
        """Let all messages of the chains that begin with `prefix` be delivered at once, without an order.

        Returns:
            how many messages there were.

        Raises:
            NotStoredError: if Redis is away or refuses.
        """

        def break_up(schedule: Schedule) -> int:
            count = 0
            while names := schedule.chain_names(prefix):
                for answer in schedule.chain([Step(Do.BREAK_UP, name, 0, 0) for name in names], new_id(), 0):
                    count += answer.is_open
            return count

        return int(self._once(break_up))

    def gone(self, task_ids: Sequence[str], *, dead: bool) -> None:
        """Let the chains of deliveries go on that have ended, or hold them after a dead letter, as the consumer said.

        Args:
            task_ids: the deliveries.
            dead: whether they have become dead letters. Else they were dropped.

        Raises:
            NotStoredError: if Redis is away or refuses.
        """
        steps = [Step(Do.GONE, "", 0, 0, Entry(task_id, 0, b""), hold=dead) for task_id in task_ids]
        self._once(lambda schedule: schedule.chain(steps, new_id(), 0))

    def change(self, changes: Sequence[ChainChange]) -> list[ChainAnswer]:
        """See `registry.KeyChains.change`. One connection is kept for it."""
        deliveries = [None if change.message is None else _delivery(change, change.message) for change in changes]
        new = [d for change, d in zip(changes, deliveries, strict=True) if d is not None and change.do != "arrive"]
        note_waits(self._app, filter(None, deliveries), self._clock)
        told = [self._form.before_publish(delivery, self._clock.now_ms()) for delivery in new]
        keys = self._form.keys()
        forms = keys.seal_many(codec.seal_many([one.pack() for one in deliveries if one is not None]))
        with self._lock:
            if self._pid != os.getpid():
                self._open, self._pid = None, os.getpid()
                self._rates.forget()
            try:
                if self._open is None:
                    self._open = OpenedSchedule(self._publisher.open())
                schedule = self._open.schedule
                commands = self._events.commands(schedule, new) if new and self._publisher.wants_events() else []
                lanes = self._rates.lanes_of([delivery for delivery in deliveries if delivery is not None], schedule)
                steps = _steps(changes, deliveries, forms, lanes)
                answers = schedule.chain(steps, new_id(), self._hold_ms, piggybacked=commands)
            except BaseException as error:
                # Its connection may be amid an answer.
                self._close()
                if isinstance(error, FAULTS):
                    raise NotStoredError(f"Redis did not take the change of a chain: {error}") from error
                raise
        for tell in told:
            if tell is not None:
                tell()
        return [_answer(answer, keys) for answer in answers]

    def close(self) -> None:
        """Close the connection. It may be used again; it connects anew."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._open is not None and self._pid == os.getpid():
            self._open.close()
        self._open = None
        self._rates.forget()

    @property
    def _hold_ms(self) -> int:
        return round(self._hold_s() * 1000)

    def _once(self, ask: Callable[[Schedule], Any]) -> Any:
        try:
            with self._publisher.open() as schedule:
                return ask(schedule)
        except FAULTS as error:
            raise NotStoredError(f"Redis did not answer for chains: {error}") from error


def _delivery(change: ChainChange, message: Message) -> Delivery:
    # A dead letter has no place in a chain any more.
    is_chained = message.reason is None
    return Delivery(message=message, task_id=message.task_id, due_ms=change.due_ms, chained=is_chained)


def _steps(
    changes: Sequence[ChainChange],
    deliveries: Sequence[Delivery | None],
    forms: Iterable[bytes],
    lanes: Iterable[str],
) -> list[Step]:
    forms, lanes = iter(forms), iter(lanes)
    return [
        Step(
            Do(change.do),
            change.chain,
            change.place,
            change.attempt,
            None
            if delivery is None
            else Entry(delivery.task_id, delivery.due_ms, next(forms), next(lanes), delivery.priority),
            change.hold,
            change.want,
        )
        for change, delivery in zip(changes, deliveries, strict=True)
    ]


def _answer(answer: Answer, keys: KeyRing) -> ChainAnswer:
    taken: list[Message] = []
    for member in answer.taken:
        try:
            taken.append(Delivery.decode(member.id, member.stored, keys=keys).message)
        except (UnknownVersionError, WireFormatError):
            # The schedule delivers it when its time is over, and a worker says what is wrong with it.
            break
    return ChainAnswer(answer.outcome, bool(answer.is_open), taken)
