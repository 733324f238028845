"""Stops a consumer that makes too many dead letters, because then the fault is not in the records."""

from __future__ import annotations

import threading
from collections import deque

from ..errors import DeadLetterLimitError
from ..message import Origin
from .config import ConsumerConfig


class DeadLetterLimit:
    """Counts the dead letters of a consumer. Any thread may call it.

    Only records whose outcome is final count: those that succeeded, and those that became dead letters. Records that
    are retried or dropped do not count.
    """

    def __init__(self, config: ConsumerConfig) -> None:
        self._lock = threading.Lock()
        self._most_in_a_row = config.dead_letter_limit
        self._share = config.dead_letter_share
        self._in_a_row = 0
        #: Of the last records, whether each is dead.
        self._last: deque[bool] = deque(maxlen=config.dead_letter_window)
        self._dead = 0
        self.is_on = self._most_in_a_row is not None or self._share is not None

    def succeeded(self) -> None:
        """Note that a record was handled."""
        with self._lock:
            self._in_a_row = 0
            self._add(dead=False)

    def admit(self, origin: Origin, reason: str) -> None:
        """Note a dead letter, or refuse it.

        Args:
            origin: the record, for the error.
            reason: why it would become a dead letter, for the error.

        Raises:
            DeadLetterLimitError: if it would exceed the limit. Then it is not counted.
        """
        if not self.is_on:
            return
        with self._lock:
            if self._most_in_a_row is not None and self._in_a_row >= self._most_in_a_row:
                raise _exceeded(
                    f"dead_letter_limit={self._most_in_a_row}", f"{self._in_a_row} in a row", origin, reason
                )
            window = self._last.maxlen or 0
            # The oldest record leaves a full window when this one comes in.
            dead = self._dead - (self._last[0] if len(self._last) == window else 0)
            if self._share is not None and dead + 1 > self._share * window:
                raise _exceeded(
                    f"dead_letter_share={self._share:g}", f"{dead} of the last {window} records", origin, reason
                )
            self._in_a_row += 1
            self._add(dead=True)

    def _add(self, *, dead: bool) -> None:
        if len(self._last) == self._last.maxlen:
            self._dead -= self._last[0]
        self._last.append(dead)
        self._dead += dead


def _exceeded(limit: str, count: str, origin: Origin, reason: str) -> DeadLetterLimitError:
    return DeadLetterLimitError(
        f"{limit} is exceeded: {count} are dead letters, and {origin} would be the next ({reason}). The consumer "
        "stops; that record is not committed and is consumed again after the next start"
    )
