"""The rows of the table: a value, the peer's value of the same run, and the comparison with the goal."""

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
        value: the figure in the row's title; None if the row was skipped.
        peer: the compared software.
        peer_value: the peer's figure of the same run; None if there is none.
        ratio: `value` to `peer_value`.
        figures: further measured figures.
        size: the number of messages and rounds.
        limit: the known reason why the value is not better; empty if it is not known.
        best: the best value that this limit allows; None if it is not known.
        skipped: the reason why the row was not measured; empty if it was measured.
        load: the machine's load average when the row was measured.
        against: the value of the same row in the other checkout; None if there is none.
    """

    name: str
    value: float | None = None
    peer: str = STOCK
    peer_value: float | None = None
    ratio: float | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    size: Mapping[str, Any] = field(default_factory=dict)
    limit: str = ""
    best: float | None = None
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
        """Return the limits that do not hold."""
        return [limit for limit in self.goal.limits if not self._holds(limit)]

    def figure(self, name: str) -> float | None:
        """Return the figure of a limit; None if it could not be computed."""
        if name == VALUE:
            return self.value
        return self.ratio if name == RATIO else self.figures.get(name)

    @property
    def against_ratio(self) -> float | None:
        return quotient(self.value, self.against)

    @property
    def why(self) -> str:
        """Return in one line why the goal is missed or the row was skipped; empty if the goal is met."""
        if self.skipped:
            return self.skipped
        if not self.missed:
            return ""
        others = [self._said(limit) for limit in self.missed if limit.figure != VALUE]
        reasons = [*others, self.limit]
        cores = os.cpu_count() or 1
        missed = next((limit for limit in self.missed if limit.figure == VALUE), None)
        # A limit that allows the goal does not explain why the goal is missed.
        is_explained = self.limit and not (missed and self.best is not None and missed.holds(self.best))
        if missed and not is_explained and self.load > cores:
            reasons.append(f"the machine was busy (load average {self.load:.1f} on {cores} processors)")
        return "; ".join(filter(None, reasons))

    def to_json(self) -> str:
        """Return the row as one JSON object. `benchmarks.delayed_delivery` documents the keys."""
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
        if figure is None:
            return f"{limit.label or limit.figure}: not measured"
        if limit.figure == RATIO:
            return f"{figure} times {self.peer}"
        return f"{limit.label}: {figure} {limit.unit}".rstrip()


def quotient(value: float | None, base: float | None) -> float | None:
    """Return one value divided by another, rounded; None if that is not possible."""
    return None if value is None or not base else round(value / base, 3 if value < base else 2)


def median(values: Sequence[float], digits: int | None = None) -> float:
    """Return the median, rounded."""
    return round(statistics.median(values), digits)


def paired(ours: Sequence[float], peers: Sequence[float], digits: int | None = None) -> dict[str, Any]:
    """Return `value`, `peer_value` and `ratio` of a row, from the figures of each round.

    The ratio is the median of the ratios of the rounds, because other load in a round slows both sides.
    """
    ratios = [ratio for ratio in map(quotient, ours, peers) if ratio is not None]
    return {
        "value": median(ours, digits),
        "peer_value": median(peers, digits),
        "ratio": round(statistics.median(ratios), 3) if ratios else None,
    }


def median_figures(rounds: Sequence[Mapping[str, float]], digits: int = 1) -> dict[str, float]:
    """Return the median of each figure over the rounds."""
    return {name: median([figures[name] for figures in rounds], digits) for name in rounds[0]}
