"""Opens the schedule of a queue for operators, and tells plainly if Redis does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any

from ..broker import require_redis, shown_broker
from ..clock import Clock
from ..delivery.plainly import FAULTS
from ..errors import UnreachableError
from ..message.encryption import KeyRing
from ..message.ids import task_ids_of
from ..schedule.port import Counts, Health, Schedule, Waiting, open_schedule, put_on_list
from ..selection import Filter, PendingView, check_text
from . import paging
from .reading import views_of, with_disabled


class Access:
    """Opens the schedules of an app's queues.

    Args:
        app: the Celery app.
        open_own: opens the schedule of rebound's queue.
        queue: tells the name of that queue.
        keys: tells the keys that open stored messages.
        clock: tells the time.
    """

    def __init__(
        self,
        app: Any,
        open_own: Callable[[], AbstractContextManager[Schedule]],
        queue: Callable[[], str],
        keys: Callable[[], KeyRing],
        clock: Clock,
    ) -> None:
        self._app = app
        self._open_own = open_own
        self._queue = queue
        self.keys = keys
        self.clock = clock

    @contextmanager
    def open(self, queue: str | None) -> Iterator[OpenQueue]:
        """Open the schedule of a queue; None is rebound's own.

        Raises:
            UnreachableError: if Redis does not answer.
            InvalidSettingError: if `queue` is no text.
        """
        own = self._queue()
        if queue is not None:
            check_text("queue", queue, "it is the name of a Celery queue of the app; None is rebound's own")
        name = own if queue is None else queue
        with self.asking():
            if name != own:
                require_redis(self._app)
            opened = self._open_own() if name == own else open_schedule(self._app, name)
            schedule = opened.__enter__()
        try:
            yield OpenQueue(self, schedule, name)
        finally:
            opened.__exit__(None, None, None)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Surround calls of the schedule, and of nothing else: a closed pipe of the caller's is no fault of Redis."""
        try:
            yield
        except FAULTS as error:
            raise UnreachableError("Redis", shown_broker(self._app), error) from error

    def put_on_list(self, queue: str, entries: Sequence[Waiting]) -> None:
        """Put copies of Celery tasks on the list that workers without the schedule consume."""
        put_on_list(self._app, queue, entries, self.clock.now_ms())


class OpenQueue:
    """A queue whose schedule is open.

    Args:
        access: opened it.
        schedule: its schedule.
        name: its name.
    """

    def __init__(self, access: Access, schedule: Schedule, name: str) -> None:
        self._access = access
        self.schedule = schedule
        self.name = name
        self.asking = access.asking
        self.keys = access.keys()

    def entries(self, identity: str) -> list[Waiting]:
        """What there is under an id: one entry, or those of a message."""
        check_text("id", identity, "it is the id of a task or of a message, as a text")
        with self.asking():
            entry = self.schedule.get(identity)
            if entry is not None:
                return [entry]
            names = self.schedule.known(task_ids_of(identity))
            return [entry for name in names if (entry := self.schedule.get(name)) is not None]

    @cached_property
    def counts(self) -> Counts:
        """How many entries there were of each kind when it was first asked for."""
        with self.asking():
            return self.schedule.counts()

    @cached_property
    def disabled(self) -> Mapping[str, Health]:
        """The HTTP endpoints that were disabled when it was first asked for."""
        with self.asking():
            found = self.schedule.unhealthy()
        return {name: health for name, health in found.items() if health.disabled_ms}

    def total(self, *, leased: bool = False) -> int:
        """How many entries waited, or were leased."""
        return self.counts.leased if leased else self.counts.waiting

    def views(self, entries: Sequence[Waiting], *, arguments: bool = False) -> list[PendingView]:
        """The views of entries."""
        views = views_of(entries, self.name, self.keys, arguments=arguments)
        return with_disabled(views, self.disabled) if self.disabled else views

    def parts(
        self, chosen: Filter, *, count: int | None = None, arguments: bool = False, **options: Any
    ) -> Iterator[paging.Part]:
        """Read what fits page by page; see `paging.parts`."""
        lanes = len(self.counts.by_lane) if count is None else 1

        def view(entries: Sequence[Waiting]) -> list[PendingView]:
            return self.views(entries, arguments=arguments)

        return paging.parts(
            self.schedule,
            chosen,
            view,
            self._access.clock.now_ms,
            self.asking,
            count=count,
            lanes=lanes,
            **options,
        )
