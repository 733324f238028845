"""Lets calls that several threads make at once share a round trip."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

#: Seconds that a call waits at most for others that have run together with it lately.
_GATHER_S = 0.001

T = TypeVar("T")


class _Call(Generic[T]):
    """One thread's call, until it has ended."""

    __slots__ = ("done", "error", "item", "leads", "turn")

    def __init__(self, item: T) -> None:
        self.item = item
        self.turn = threading.Lock()
        self.turn.acquire()
        self.done = False
        #: Whether its thread is to run the calls that wait.
        self.leads = False
        self.error: BaseException | None = None


class Combiner(Generic[T]):
    """Runs the calls of several threads together.

    A thread whose call finds none under way runs it at once. Calls that are made meanwhile wait, and the first of them
    then runs all of them as one. Where several have run together lately, a call first lets other threads come as far:
    else the first of those that have just ended would run alone, each time. A thread by itself pays for two locks.

    Args:
        run: does the work of several calls; what it raises is raised to each of their callers.
        most: how many calls run together at most.
    """

    def __init__(self, run: Callable[[Sequence[T]], Any], most: int = 500) -> None:
        self._run = run
        self._most = most
        #: How many calls have run together, or have waited meanwhile, the last time.
        self._lately = 1
        #: How many calls the one that runs next waits for; 0 while it does not wait.
        self._expected = 0
        self._complete = threading.Lock()
        self._complete.acquire()
        self._lock = threading.Lock()
        self._is_running = False
        self._waiting: deque[_Call[T]] = deque()

    def call(self, item: T) -> None:
        """Run `item`, alone or together with others; returns once that is done."""
        with self._lock:
            is_first = not self._is_running
            self._is_running = True
            if is_first and self._lately == 1:
                call = None
            else:
                call = _Call(item)
                if not is_first:
                    self._waiting.append(call)
                    if len(self._waiting) == self._expected:
                        self._expected = 0
                        self._complete.release()
        if call is None:
            self._run_alone(item)
            return
        try:
            if not is_first:
                call.turn.acquire()
            if not call.done:
                self._gather()
        except BaseException:
            self._leave(call, is_first=is_first)
            raise
        if not call.done:
            self._run_all(call)
        if call.error is not None:
            raise call.error

    def _leave(self, call: _Call[T], *, is_first: bool) -> None:
        """Let the others go on without a call whose thread was interrupted while it waited, by a signal say."""
        with self._lock:
            self._expected = 0
            if call in self._waiting:
                self._waiting.remove(call)
                return
        if is_first or (call.leads and not call.done):
            self._hand_over(1)

    def _gather(self) -> None:
        """Wait until as many calls are there as lately, if they come at once."""
        with self._lock:
            expected = min(self._lately, self._most) - 1
            if len(self._waiting) >= expected:
                return
            self._expected = expected
        if not self._complete.acquire(timeout=_GATHER_S):
            with self._lock:
                if self._expected:
                    self._expected = 0
                    return
            # The last one came just now.
            self._complete.acquire()

    def _run_alone(self, item: T) -> None:
        try:
            self._run((item,))
        finally:
            self._hand_over(1)

    def _run_all(self, first: _Call[T]) -> None:
        """Run the calls that wait. `first` is the caller's own; its turn has come."""
        with self._lock:
            calls = [first]
            while self._waiting and len(calls) < self._most:
                calls.append(self._waiting.popleft())
        error: BaseException | None = None
        try:
            self._run([call.item for call in calls])
        except BaseException as caught:  # noqa: BLE001 - each caller raises it
            error = caught
        finally:
            self._hand_over(len(calls))
        for call in calls:
            call.error, call.done = error, True
            if call is not first:
                call.turn.release()

    def _hand_over(self, ended: int) -> None:
        """Let the next waiting call run, with those behind it, now that so many have ended."""
        with self._lock:
            self._lately = max(ended, len(self._waiting))
            if self._waiting:
                following = self._waiting.popleft()
                following.leads = True
                following.turn.release()
            else:
                self._is_running = False
