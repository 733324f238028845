"""SIGINT and SIGTERM, from the first line of the program on. It imports nothing that takes time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(BaseException):
    """A signal came while the program was waiting for something that it can leave."""


class Interrupts:
    """Remembers the signals, in plain attributes: a signal handler may interrupt a thread that holds a lock."""

    def __init__(self) -> None:
        self.count = 0
        self._first: int | None = None
        self._raises = False

    def install(self) -> None:
        """Take the signals from now on; only in the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    @property
    def name(self) -> str:
        """The first signal, in Go's words: `interrupt` or `terminated`."""
        return "interrupt" if self._first == signal.SIGINT else "terminated"

    @contextmanager
    def raising(self) -> Iterator[None]:
        """A signal raises `Interrupted` in this block; one that came before raises at once."""
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
            # Once: the code that cleans up behind it must not be interrupted, too.
            self._raises = False
            raise Interrupted
