"""The rows that measurements give: a value, the peer's value of the same run, and whether the goal is met."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .goals import GOALS, RATIO, VALUE, Goal, Limit

STOCK = "stock Celery"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        name: its name in `GOALS` and for `--only`.
        value: the figure that the row's title speaks of; None if the row was skipped.
        peer: what it is compared with.
        peer_value: the peer's figure of the same run; None where there is none.
        ratio: `value` to `peer_value`.
        figures: what else was measured.
        size: with how much of what.
        limit: what stands between this row and a better value, where that is known.
        skipped: why the row was not measured; empty if it was.
        load: the machine's load average when the row was measured.
        against: the value of the same row in another checkout, if that was asked for and has the row.
    """

    name: str
    value: float | None = None
    peer: str = STOCK
    peer_value: float | None = None
    ratio: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    size: Mapping[str, Any] = field(default_factory=dict)
    limit: str = ""
    skipped: str = ""
    load: float = 0.0
    against: float | None = None

    @property
    def goal(self) -> Goal:
        return GOALS[self.name]

    @property
    def met(self) -> bool | None:
        """Whether this run met the goal; None if the row was skipped or has no goal."""
        if self.value is None or not self.goal.limits:
            return None
        return not self.missed

    @property
    def missed(self) -> list[Limit]:
        """The limits that do not hold."""
        return [limit for limit in self.goal.limits if not self._holds(limit)]

    def figure(self, name: str) -> float | None:
        """The figure that a limit speaks of; None where it could not be computed."""
        if name == VALUE:
            return self.value
        return self.ratio if name == RATIO else self.figures.get(name)

    @property
    def against_ratio(self) -> float | None:
        return quotient(self.value, self.against)

    @property
    def why(self) -> str:
        """In one line, why the goal is missed or the row was skipped; empty if the goal is met."""
        if self.skipped:
            return self.skipped
        if not self.missed:
            return ""
        others = [self._said(limit) for limit in self.missed if limit.figure != VALUE]
        cores = os.cpu_count() or 1
        busy = (
            f"other programs ran too: load average {self.load:.1f} on {cores} processors" if self.load > cores else ""
        )
        return "; ".join(filter(None, [*others, self.limit, busy]))

    def to_json(self) -> str:
        """The row as one JSON object; `benchmarks.delayed_delivery` documents the keys."""
        return json.dumps(
            {
                "name": self.name,
                "title": self.goal.title,
                "value": self.value,
                "unit": self.goal.unit,
                "peer": self.peer,
                "peer_value": self.peer_value,
                "ratio": self.ratio,
                "goal": self.goal.source,
                "limits": [
                    {"figure": limit.figure, "direction": limit.direction, "bound": limit.bound}
                    for limit in self.goal.limits
                ],
                "met": self.met,
                "why": self.why,
                "against_value": self.against,
                "against_ratio": self.against_ratio,
                "figures": dict(self.figures),
                "size": dict(self.size),
                "load_average": round(self.load, 1),
            }
        )

    def _holds(self, limit: Limit) -> bool:
        figure = self.figure(limit.figure)
        return figure is not None and limit.holds(figure)

    def _said(self, limit: Limit) -> str:
        figure = self.figure(limit.figure)
        if limit.figure == RATIO:
            return f"{figure} times {self.peer}"
        return f"{limit.label}: {figure} {limit.unit}".rstrip()


def quotient(value: float | None, base: float | None) -> float | None:
    """One value divided by another, rounded; None where that is not possible."""
    return None if value is None or not base else round(value / base, 3 if value < base else 2)


def median(values: Sequence[float], digits: int | None = None) -> float:
    """The median, rounded."""
    return round(statistics.median(values), digits)


def paired(ours: Sequence[float], peers: Sequence[float], digits: int | None = None) -> dict[str, Any]:
    """`value`, `peer_value` and `ratio` of a row, from the figures of each round.

    The ratio is the median of each round's own: what slowed the machine down in a round slowed both.
    """
    ratios = [ratio for ratio in map(quotient, ours, peers) if ratio is not None]
    return {
        "value": median(ours, digits),
        "peer_value": median(peers, digits),
        "ratio": round(statistics.median(ratios), 3) if ratios else None,
    }


def median_figures(rounds: Sequence[Mapping[str, float]], digits: int = 1) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {name: median([figures[name] for figures in rounds], digits) for name in rounds[0]}
