"""The signals that end or suspend a run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Counts SIGINT, SIGTERM and SIGHUP, and remembers SIGTSTP. The second of those that end raises KeyboardInterrupt.

    It uses no lock, because a signal handler may interrupt a thread that holds it.

    Attributes:
        count: how many signals that end were received.
        suspended: whether Ctrl-Z was pressed, and the process has not stopped yet.
        is_closing: set while everything is being ended anyway; nothing is raised then.
    """

    def __init__(self) -> None:
        self.count = 0
        self.suspended = False
        self.is_closing = False

    def _on_end(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 2 and not self.is_closing:
            raise KeyboardInterrupt

    def _on_suspend(self, _number: int, _frame: FrameType | None) -> None:
        self.suspended = True

    @contextmanager
    def installed(self) -> Iterator[None]:
        handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._on_end)
        handlers[signal.SIGTSTP] = self._on_suspend
        # Under nohup, the end of the terminal does not end the demo.
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            del handlers[signal.SIGHUP]
        earlier = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in earlier.items():
                signal.signal(number, handler)
