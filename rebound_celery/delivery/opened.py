"""What a process keeps open: its destinations, and a schedule."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress

from ..destinations import Destination
from ..schedule.port import Schedule

#: The destinations by the kind of address that they serve: "kafka", "http" and "dead-set".
Destinations = Mapping[str, Destination]


_all: weakref.WeakSet[OpenedDestinations] = weakref.WeakSet()


def _forget_locks() -> None:
    for opened in _all:
        opened.forget_lock()


os.register_at_fork(after_in_child=_forget_locks)


class OpenedDestinations:
    """Destinations that are made when first needed, and anew in a forked child: a producer's threads do not survive it.

    Args:
        build: makes them.
    """

    def __init__(self, build: Callable[[], Destinations]) -> None:
        self._build = build
        self._pid: int | None = None
        self._current: Destinations | None = None
        self._lock = threading.Lock()
        _all.add(self)

    @property
    def by_kind(self) -> Destinations:
        """The destinations of this process: the same for all threads, since they bound the work for each host."""
        current = self._current
        if current is not None and self._pid == os.getpid():
            return current
        with self._lock:
            if self._current is None or self._pid != os.getpid():
                self._current, self._pid = self._build(), os.getpid()
            return self._current

    def forget_lock(self) -> None:
        """In a forked child: a thread that the child does not have may have held it."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close what this process opened. What a parent opened before the fork belongs to the parent."""
        if self._current is not None and self._pid == os.getpid():
            for destination in self._current.values():
                destination.close()
        self._current = None

    @contextmanager
    def replaced(self, destinations: Destinations) -> Iterator[None]:
        """Let other destinations take the place of these, for tests."""
        build = self._build
        self.close()
        self._build = lambda: destinations
        try:
            yield
        finally:
            self._current, self._build = None, build


class OpenedSchedule:
    """A schedule that is kept open for many calls.

    Args:
        context: opens it.
    """

    def __init__(self, context: AbstractContextManager[Schedule]) -> None:
        self._context = context
        self.schedule = context.__enter__()

    def close(self) -> None:
        """Close its connection. It never raises: the connection may be broken."""
        with suppress(Exception):
            self._context.__exit__(None, None, None)
