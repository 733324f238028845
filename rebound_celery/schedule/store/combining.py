"""Lets calls that several threads make at once share a round trip."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Call(Generic[T]):
    """One thread's call, until it has ended."""

    __slots__ = ("done", "error", "item", "turn")

    def __init__(self, item: T) -> None:
        self.item = item
        self.turn = threading.Lock()
        self.turn.acquire()
        self.done = False
        self.error: BaseException | None = None


class Combiner(Generic[T]):
    """Runs the calls of several threads together.

    A thread whose call finds none under way runs it at once, alone. Calls that are made meanwhile wait, and the first
    of them then runs all of them as one. A thread by itself pays for two locks.

    Args:
        run: does the work of several calls; what it raises is raised to each of their callers.
        most: how many calls run together at most.
    """

    def __init__(self, run: Callable[[Sequence[T]], Any], most: int = 500) -> None:
        self._run = run
        self._most = most
        self._lock = threading.Lock()
        self._is_running = False
        self._waiting: deque[_Call[T]] = deque()

    def call(self, item: T) -> None:
        """Run `item`, alone or together with others; returns once that is done."""
        with self._lock:
            call = None
            if self._is_running:
                call = _Call(item)
                self._waiting.append(call)
            else:
                self._is_running = True
        if call is None:
            self._run_first(item)
            return
        call.turn.acquire()
        if not call.done:
            self._run_all(call)
        if call.error is not None:
            raise call.error

    def _run_first(self, item: T) -> None:
        try:
            self._run((item,))
        finally:
            self._hand_over()

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
            self._hand_over()
        for call in calls:
            call.error, call.done = error, True
            if call is not first:
                call.turn.release()

    def _hand_over(self) -> None:
        """Let the next waiting call run, with those behind it."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().turn.release()
            else:
                self._is_running = False
