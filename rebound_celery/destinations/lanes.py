"""Work in threads of which each host has only some, so that a slow host does not hold the others."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes(Generic[Item, Result]):
    """Runs work in threads; each host has a few lanes, and what has no lane yet waits without a thread.

    Hosts with work take turns at the threads where there are too few for all lanes.

    Args:
        work: what is done with an item.
        threads: how many items are in work at most.
        per_host: how many of them for one host.
    """

    def __init__(self, work: Callable[[Item], Result], threads: int, per_host: int) -> None:
        self._work = work
        self._size = threads
        self._per_host = per_host
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: dict[Hashable, deque[tuple[Item, Future[Result]]]] = defaultdict(deque)
        self._lanes: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def submit(self, host: Hashable, item: Item) -> Future[Result]:
        """Have the work done when the host has a lane. Until it has begun, the future can be cancelled."""
        future: Future[Result] = Future()
        with self._lock:
            self._waiting[host].append((item, future))
            if self._lanes[host] < self._per_host:
                self._start(host)
                self._lanes[host] += 1
        return future

    def close(self) -> None:
        """End the threads once their work is done. It may be used again."""
        with self._lock:
            if self._threads is not None:
                self._threads.shutdown(wait=False)
                self._threads = None

    def _start(self, host: Hashable) -> None:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._size, thread_name_prefix="rebound-http")
        self._threads.submit(self._run, host)

    def _run(self, host: Hashable) -> None:
        """Do one piece of the host's work, and go to the end of the line for its next one."""
        try:
            self._do_next(host)
        finally:
            with self._lock:
                if self._waiting[host]:
                    self._start(host)
                else:
                    self._lanes[host] -= 1
                    if self._lanes[host] <= 0:
                        del self._lanes[host], self._waiting[host]

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
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the result
            future.set_exception(error)
