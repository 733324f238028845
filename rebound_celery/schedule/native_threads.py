"""Real threads, and locks that real threads can share, also under gevent and eventlet.

Under gevent and eventlet a `threading.Thread` is a greenlet: it stands still while a task computes, or while a task is
in code that the library has not patched. A real thread goes on. But a patched socket or lock belongs to the thread that
made it, so that two real threads cannot share one. What they share comes from this module.
"""

from __future__ import annotations

import _thread
import sys
import threading
from _queue import Empty, SimpleQueue  # not the one of `queue`, which they replace
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def _original(name: str) -> Any:
    """The object that `_thread` had by this name before gevent or eventlet replaced it."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is not None and monkey.is_module_patched("threading"):
        return monkey.get_original("_thread", name)
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        return getattr(patcher.original("_thread"), name)
    return getattr(_thread, name)


def make_lock() -> Any:
    """A lock that stops the whole thread while another thread holds it. Nothing slow may be done under it."""
    return _original("allocate_lock")()


def start_thread(run: Callable[[], None], name: str) -> None:
    """Run this in a thread that does not keep the process alive."""
    start = _original("start_new_thread")
    if start is _thread.start_new_thread:
        threading.Thread(target=run, name=name, daemon=True).start()
    else:
        start(run, ())


class Wake:
    """Wakes a thread that waits."""

    def __init__(self) -> None:
        self._tokens: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        if self._tokens.empty():
            self._tokens.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Whether it was set since it was last waited for; returns at once if it was."""
        with suppress(Empty):
            self._tokens.get(timeout=timeout_s)
            return True
        return False
