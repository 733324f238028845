"""What is added to counters with labels, together with what it counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Tally(NamedTuple):
    """What is added to counters with labels, in the step that changes what they count.

    Attributes:
        counts: field -> the field to add to instead if the metric has too many, and how much. The part of a field's
            name before its bar is the metric. No name without a bar is possible: plain counters are the scripts' own.
        most: how many fields a metric may have.
    """

    counts: Mapping[str, tuple[str, int]]
    most: int

    @property
    def arguments(self) -> list[str | int]:
        """This as the scripts take it."""
        arguments: list[str | int] = [self.most]
        for field, (instead, number) in self.counts.items():
            arguments += (field, instead, number)
        return arguments

    @classmethod
    def sum(cls, tallies: Iterable[Tally | None]) -> Tally | None:
        """All of these as one; None if there is none."""
        counts: dict[str, tuple[str, int]] = {}
        most = 0
        for tally in tallies:
            if tally is None:
                continue
            most = max(most, tally.most)
            for field, (instead, number) in tally.counts.items():
                counts[field] = instead, number + counts.get(field, ("", 0))[1]
        return cls(counts, most) if counts else None
