"""Tells which of the letters that a replay has read will not be read again by one that goes on at its position."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile

from ..schedule.port import Position
from .letter import Letter
from .replay_values import Passed


@dataclass(slots=True)
class Seen:
    """A letter that was read, and that may be read again.

    Attributes:
        place: its place in Redis.
        partition, offset: its place in a topic.
        matched, left, stored: whether it fits, cannot be replayed, and was stored.
    """

    place: Position
    partition: int | None
    offset: int | None
    matched: bool = False
    left: bool = False
    stored: bool = False


class Passing:
    """The letters that were read, in that order.

    Args:
        after: where the reading of Redis begins; None means at the beginning.
    """

    def __init__(self, after: Position | None) -> None:
        self._after = after
        self._seen: dict[str, Seen] = {}
        self._passed = Passed()

    def add(self, letter: Letter) -> Seen:
        """Remember a letter that was read."""
        view = letter.view
        seen = self._seen[view.id] = Seen(letter.place, view.partition, view.offset)
        return seen

    def store(self, letter: Letter, *, is_stored: bool) -> None:
        """Remember what became of a letter."""
        if (seen := self._seen.get(letter.view.id)) is not None:
            seen.stored = is_stored

    @property
    def passed(self) -> Passed:
        """What is before the last position that was asked for.

        What has left Redis is not read again wherever it was. So it counts here.
        """
        gone = sum(seen.stored for seen in self._seen.values() if seen.partition is None)
        return Passed(self._passed.read + gone, self._passed.matched + gone, self._passed.left)

    def place(self, waiting: Collection[str], last: Position | None) -> Position | None:
        """The place in Redis behind which the first letter is that still has to be stored.

        Args:
            waiting: the ids of the letters that have to be.
            last: the place of the last letter that was read.
        """
        passed = list(takewhile(lambda name: name not in waiting, self._seen))
        if not waiting:
            self._after = last
        elif passed:
            self._after = self._seen[passed[-1]].place
        self._pass(passed)
        return self._after

    def pass_offsets(self, offsets: Mapping[int, int]) -> None:
        """Count what is before these offsets of a topic."""
        self._pass(
            [name for name, seen in self._seen.items() if (seen.offset or 0) < offsets.get(seen.partition or 0, 0)]
        )

    def _pass(self, names: Iterable[str]) -> None:
        gone = [self._seen.pop(name) for name in names]
        read, matched, left = self._passed
        self._passed = Passed(
            read + len(gone), matched + sum(seen.matched for seen in gone), left + sum(seen.left for seen in gone)
        )
