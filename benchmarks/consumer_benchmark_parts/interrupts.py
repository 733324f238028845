"""Handles SIGINT and SIGTERM from the first line of the program on. It has no slow imports."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
    """A signal came during a wait that may be interrupted."""


class Interrupts:
    """Records the signals. It has no lock, because a signal handler may interrupt a thread that holds it."""

    def __init__(self) -> None:
        self.count = 0
        self._first: int | None = None
        self._raises = False

    def install(self) -> None:
        """Handle the signals from now on. Call this in the main thread only."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    @property
    def name(self) -> str:
        """The name of the first signal in Go: `interrupt` or `terminated`."""
        return "interrupt" if self._first == signal.SIGINT else "terminated"

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Let a signal raise `Interrupted` in this block. An earlier signal raises it at once."""
        self._raises = True
        try:
            if self.count:
                raise Interrupted
            yield
        finally:
            self._raises = False

    def _on_signal(self, number: int, _frame: object) -> None:
        self.count += 1
        if self._first is None:
            self._first = number
        if self._raises:
            # Only once, because the clean-up after it must not be interrupted.
            self._raises = False
            raise Interrupted
