"""Names for claims, such that a claim whose answer was lost is asked again by the same name."""

from __future__ import annotations

import os
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from ..store.claims import ClaimId


class ClaimIds:
    """Gives out claim ids for each queue; from any thread.

    They belong to the process: a channel that comes after a lost connection asks again what the one before it asked.
    """

    def __init__(self) -> None:
        self._free: defaultdict[Hashable, deque[ClaimId]] = defaultdict(deque)

    @contextmanager
    def one(self, queue: Hashable) -> Iterator[ClaimId]:
        """A claim id that nobody else uses meanwhile. One whose claim failed comes again, before any other."""
        free = self._free[queue]
        try:
            claim = free.popleft()
        except IndexError:
            claim = ClaimId(os.urandom(6).hex(), 1)
        try:
            yield claim
        except BaseException:
            free.appendleft(claim)
            raise
        free.append(replace(claim, number=claim.number + 1))
