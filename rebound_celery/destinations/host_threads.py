"""A thread pool in which each host uses only a few threads, so that a slow host does not delay other hosts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..clock import SYSTEM_CLOCK, Clock
from ..no_thread import is_no_thread
from ..tracing import keep_contexts

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True)
class _Host(Generic[Item, Result]):
    """What waits and runs for one host.

    Attributes:
        waiting: what has not begun.
        running: when each item that runs has begun, by the monotonic clock.
        next_at: when its rate lets the next one begin.
        timer: waits for that.
    """

    waiting: deque[tuple[Item, Future[Result]]] = field(default_factory=deque)
    running: dict[int, float] = field(default_factory=dict)
    places: int = 0
    limit: int = 1
    rate: float | None = None
    next_at: float = 0.0
    timer: threading.Timer | None = None


class HostThreads(Generic[Item, Result]):
    """Runs work in threads, a few items of each host at once. Further items wait without occupying a thread.

    If there are fewer threads than the hosts may use, the hosts take turns.

    Args:
        work: called with each item.
        threads: how many items run at once.
    """

    def __init__(self, work: Callable[[Item], Result], threads: int, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._work = work
        self._size = threads
        self._clock = clock
        self._threads: ThreadPoolExecutor | None = None
        self._hosts: dict[Hashable, _Host[Item, Result]] = {}
        self._numbers = 0
        self._lock = threading.Lock()
        #: Whether the last thread that was needed could not be started.
        self._lacks_threads = False

    def submit(self, host: Hashable, item: Item, limit: int, rate: float | None = None) -> Future[Result]:
        """Run the work when the host has a thread. Until the work has begun, the future can be cancelled.

        Args:
            host: whose item it is.
            item: what to work on.
            limit: how many items of the host run at once.
            rate: how many items of the host begin in a second at most; None for no limit.
        """
        future: Future[Result] = Future()
        with self._lock:
            its = self._hosts.setdefault(host, _Host())
            its.limit, its.rate = limit, rate
            its.waiting.append((item, future))
            self._begin_some(host, its)
            if self._lacks_threads:
                # What is queued may have no thread at all. This tries to start one.
                self._execute(_do_nothing)
        return future

    def stuck_s(self, host: Hashable) -> float:
        """For how many seconds all places of a host have been taken by the same items; 0 if one is free.

        Nothing that is submitted now would begin before one of these ends.
        """
        with self._lock:
            its = self._hosts.get(host)
            if its is None or its.places < its.limit or len(its.running) < its.places:
                return 0.0
            return self._clock.monotonic() - max(its.running.values())

    def longest_s(self, host: Hashable) -> float:
        """For how many seconds the host's longest running item runs; 0 if none does."""
        with self._lock:
            its = self._hosts.get(host)
            return self._clock.monotonic() - min(its.running.values()) if its is not None and its.running else 0.0

    def close(self, *, waits: bool = False) -> None:
        """End the threads once their work is done. A closed pool may be used again.

        Args:
            waits: whether to return only then.
        """
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=waits)

    def _begin_some(self, host: Hashable, its: _Host[Item, Result]) -> None:
        """Give the host's next items to the threads, as far as its limits allow."""
        while its.places < its.limit:
            while its.waiting and its.waiting[0][1].cancelled():
                its.waiting.popleft()
            if not its.waiting:
                break
            if its.rate is not None:
                now = self._clock.monotonic()
                if its.next_at > now:
                    self._begin_later(host, its, its.next_at - now)
                    return
                its.next_at = max(its.next_at, now) + 1 / its.rate
            its.places += 1
            self._execute(self._run, host, its)
        if not its.places and not its.waiting and its.next_at <= self._clock.monotonic():
            self._hosts.pop(host, None)

    def _execute(self, function: Callable[..., None], *arguments: object) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._size, "rebound-http", initializer=keep_contexts)
        try:
            self._threads.submit(function, *arguments)
            self._lacks_threads = False
        except RuntimeError as error:
            if not is_no_thread(error):
                raise
            # It is queued all the same: a thread that is there runs it, or the next one that can be started.
            self._lacks_threads = True

    def _begin_later(self, host: Hashable, its: _Host[Item, Result], delay_s: float) -> None:
        if its.timer is None:
            timer = threading.Timer(delay_s, self._on_timer, (host, its))
            timer.daemon = True
            try:
                timer.start()
            except RuntimeError as error:
                if not is_no_thread(error):
                    raise
                # The next item of the host tries again.
                return
            its.timer = timer

    def _on_timer(self, host: Hashable, its: _Host[Item, Result]) -> None:
        with self._lock:
            its.timer = None
            self._begin_some(host, its)

    def _run(self, host: Hashable, its: _Host[Item, Result]) -> None:
        """Run one item of the host; its next one queues up behind those of other hosts."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
        try:
            self._do_next(its, number)
        finally:
            with self._lock:
                its.running.pop(number, None)
                its.places -= 1
                self._begin_some(host, its)

    def _do_next(self, its: _Host[Item, Result], number: int) -> None:
        while True:
            with self._lock:
                if not its.waiting:
                    return
                item, future = its.waiting.popleft()
                its.running[number] = self._clock.monotonic()
            if future.set_running_or_notify_cancel():
                break
        try:
            future.set_result(self._work(item))
        except BaseException as error:  # noqa: BLE001 - raised where the result is waited for
            future.set_exception(error)


def _do_nothing() -> None:
    """Have no work for a thread."""
