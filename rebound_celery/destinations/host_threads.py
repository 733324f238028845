"""A thread pool in which each host uses only a few threads, so that a slow host does not delay other hosts."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from ..no_thread import is_no_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


class HostThreads(Generic[Item, Result]):
    """Runs work in threads, a few items of each host at once. Further items wait without occupying a thread.

    If there are fewer threads than the hosts may use, the hosts take turns.

    Args:
        work: called with each item.
        threads: how many items run at once.
        per_host: how many items of one host run at once.
    """

    def __init__(self, work: Callable[[Item], Result], threads: int, per_host: int) -> None:
        self._work = work
        self._size = threads
        self._per_host = per_host
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: dict[Hashable, deque[tuple[Item, Future[Result]]]] = defaultdict(deque)
        self._running: Counter[Hashable] = Counter()
        self._lock = threading.Lock()
        #: Whether the last thread that was needed could not be started.
        self._lacks_threads = False

    def submit(self, host: Hashable, item: Item) -> Future[Result]:
        """Run the work when the host has a thread. Until the work has begun, the future can be cancelled."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting[host].append((item, future))
            if self._running[host] < self._per_host:
                self._start(host)
                self._running[host] += 1
            elif self._lacks_threads:
                # What is queued may have no thread at all. This tries to start one.
                self._execute(_do_nothing)
        return future

    def close(self) -> None:
        """End the threads once their work is done. A closed pool may be used again."""
        with self._lock:
            if self._threads is not None:
                self._threads.shutdown(wait=False)
                self._threads = None

    def _start(self, host: Hashable) -> None:
        self._execute(self._run, host)

    def _execute(self, function: Callable[..., None], *arguments: Hashable) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._size, thread_name_prefix="rebound-http")
        try:
            self._threads.submit(function, *arguments)
            self._lacks_threads = False
        except RuntimeError as error:
            if not is_no_thread(error):
                raise
            # It is queued all the same: a thread that is there runs it, or the next one that can be started.
            self._lacks_threads = True

    def _run(self, host: Hashable) -> None:
        """Run one item of the host, and queue up again for its next item behind the other hosts."""
        try:
            self._do_next(host)
        finally:
            with self._lock:
                if self._waiting[host]:
                    self._start(host)
                else:
                    self._running[host] -= 1
                    if self._running[host] <= 0:
                        del self._running[host], self._waiting[host]

    def _do_next(self, host: Hashable) -> None:
        while True:
            with self._lock:
                if not self._waiting[host]:
                    return
                item, future = self._waiting[host].popleft()
            if future.set_running_or_notify_cancel():
                break
        try:
            future.set_result(self._work(item))
        except BaseException as error:  # noqa: BLE001 - raised where the result is waited for
            future.set_exception(error)


def _do_nothing() -> None:
    """Have no work for a thread."""
