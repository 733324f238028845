"""Stores failed records and changes of chains in Redis, in the order in which they come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..clock import SYSTEM_CLOCK, Clock
from ..registry import ChainAnswer, ChainChange, RetryScheduler
from .blocked_keys import Key
from .failure_handler import FailedRecord
from .offset_tracker import OffsetTracker
from .retry_writer import RetryWriter


class ChainOperation(FailedRecord, frozen=True):
    """Changes of one chain that belong together.

    Attributes:
        key: the key.
        changes: the changes, in their order.
        has_failed: whether the first of them is about an attempt that failed.
        dropped: how many of them are about records that were dropped.
    """

    key: Key
    changes: tuple[ChainChange, ...]
    has_failed: bool = False
    dropped: int = 0


class ChainWriter(RetryWriter):
    """A RetryWriter that also changes chains.

    Args:
        written: called with the operations that Redis has, each with the answers to its changes.
        dropped: called with what is not stored, because its partition was released.
    """

    def __init__(
        self,
        scheduler: RetryScheduler,
        offset_tracker: OffsetTracker,
        wake: threading.Event,
        written: Callable[[Sequence[tuple[ChainOperation, Sequence[ChainAnswer]]]], None],
        dropped: Callable[[FailedRecord], None],
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(scheduler, offset_tracker, wake, clock=clock)
        self._written = written
        self._dropped = dropped

    def _write(self, batch: Sequence[FailedRecord]) -> None:
        operations = [failed for failed in batch if isinstance(failed, ChainOperation)]
        plain = [failed for failed in batch if not isinstance(failed, ChainOperation)]
        if plain:
            super()._write(plain)
        if operations:
            changes = [change for operation in operations for change in operation.changes]
            answers = self._scheduler.chains.change(changes)
            done = []
            first = 0
            for operation in operations:
                end = first + len(operation.changes)
                done.append((operation, answers[first:end]))
                first = end
            self._written(done)

    def _store_one_by_one(self, batch: Sequence[FailedRecord]) -> list[FailedRecord]:
        kept: list[FailedRecord] = []
        waiting: set[Key] = set()
        for failed in batch:
            key = failed.key if isinstance(failed, ChainOperation) else None
            # What follows in the same chain must not pass what cannot be stored.
            left = [failed] if key is not None and key in waiting else self._store([failed])
            kept += left
            if left and key is not None:
                waiting.add(key)
        return kept

    def _drop(self, failed: FailedRecord) -> None:
        self._dropped(failed)
