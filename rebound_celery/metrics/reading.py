"""Reads what the metrics need from the schedules of an app's queues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any

import msgspec

from ..broker import require_redis, shown_broker
from ..delivery.plainly import FAULTS
from ..errors import ReboundError, UnreachableError
from ..schedule.port import Measured, Schedule, open_schedule
from .definitions import LATE_MS

#: Seconds within which another try to connect begins. A scrape has to end within seconds.
_CONNECT_S = 2.0


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What an autoscaler needs to know of a queue.

    Attributes:
        queue: its name.
        due: how many messages a worker could take now.
        leased: how many workers hold.
        work: both together: what there is to do now.
        oldest_due_age_seconds: for how long the first due message has waited; 0 if none does.
        waiting: how many messages wait, due or not.
    """

    queue: str
    due: int
    leased: int
    work: int
    oldest_due_age_seconds: float
    waiting: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, with stable keys."""
        return msgspec.structs.asdict(self)


class Source:
    """Measures the queues of an app, over one connection to each; safe for threads.

    Args:
        app: the Celery app.
        queues: the names of its queues.
        open_queue: opens the schedule of a queue; None for the one in the app's Redis.
    """

    def __init__(
        self,
        app: Any,
        queues: Sequence[str],
        open_queue: Callable[[str], AbstractContextManager[Schedule]] | None = None,
    ) -> None:
        self.queues = tuple(dict.fromkeys(queues))
        self._app = app
        self._open_queue = open_queue or self._open_in_redis
        self._lock = threading.Lock()
        self._stacks: dict[str, ExitStack] = {}
        self._schedules: dict[str, Schedule] = {}

    def measure(self, queue: str) -> Measured:
        """Measure a queue.

        Raises:
            UnreachableError: if Redis does not answer.
        """
        with self._lock:
            was_open = queue in self._schedules
            try:
                return self._measure(queue)
            except FAULTS as error:
                self._close(queue)
                if not was_open:
                    raise UnreachableError("Redis", shown_broker(self._app), error) from error
            # The connection may have been closed while nobody asked.
            try:
                return self._measure(queue)
            except FAULTS as error:
                self._close(queue)
                raise UnreachableError("Redis", shown_broker(self._app), error) from error

    def work(self, queue: str) -> Work:
        """What an autoscaler needs to know of a queue; see `measure`."""
        found = self.measure(queue)
        return Work(
            queue=queue,
            due=found.due,
            leased=found.leased,
            work=found.due + found.leased,
            oldest_due_age_seconds=found.overdue_ms / 1000,
            waiting=found.waiting,
        )

    def all(self) -> Iterator[tuple[str, Measured | ReboundError]]:
        """Each queue, measured, or why it could not be."""
        for queue in self.queues:
            try:
                yield queue, self.measure(queue)
            except ReboundError as error:
                yield queue, error

    def close(self) -> None:
        """Close the connections. It may be used again; it connects anew."""
        with self._lock:
            for queue in list(self._stacks):
                self._close(queue)

    def _measure(self, queue: str) -> Measured:
        if queue not in self._schedules:
            stack = self._stacks[queue] = ExitStack()
            self._schedules[queue] = stack.enter_context(self._open_queue(queue))
        return self._schedules[queue].measure(LATE_MS)

    def _open_in_redis(self, queue: str) -> AbstractContextManager[Schedule]:
        require_redis(self._app)
        return open_schedule(self._app, queue, _CONNECT_S)

    def _close(self, queue: str) -> None:
        self._schedules.pop(queue, None)
        with suppress(*FAULTS):
            self._stacks.pop(queue, ExitStack()).close()
