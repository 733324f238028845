"""Prints the rows as a table for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .goals import RATIO, VALUE, Goal, Limit
from .rows import STOCK, Row

_MET = {True: "yes", False: "no", None: ""}
_STYLES = {"yes": "green", "no": "red"}


def print_table(
    rows: Sequence[Row], *, heading: Sequence[str] = (), against: str = "", file: IO[str] | None = None
) -> None:
    """Print the table, and below it the reasons for missed goals and skipped rows.

    Args:
        rows: the rows to print.
        heading: the lines above the table, about the machine and the versions.
        against: a name for the other checkout; empty for none.
        file: the file to print to; None means stdout. A file that is not a terminal gets COLUMNS columns, or 80.
    """
    console = Console(file=file or sys.stdout, highlight=False, markup=False, emoji=False)
    for line in heading:
        console.print(line, soft_wrap=False)
    console.print(_table(rows, against))
    for title, chosen in (
        ("Goals not met", [row for row in rows if row.met is False]),
        ("Not measured", [row for row in rows if row.skipped]),
    ):
        if chosen:
            console.print(f"\n{title}:")
            reasons = Table.grid(padding=(0, 2))
            for row in chosen:
                reasons.add_row(f"  {row.name}", row.why or "no reason known")
            console.print(reasons)


def _table(rows: Sequence[Row], against: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), leading=1, show_edge=False)
    # The name of a row must not break across lines.
    table.add_column("row", min_width=max(len(row.name) for row in rows) + 1)
    for name in ("ours", "stock, peer", "ratio", *([against] if against else [])):
        table.add_column(name, justify="right", max_width=12)
    table.add_column("goal", min_width=11, max_width=18)
    table.add_column("met", min_width=3)
    for row in rows:
        # A row that the other checkout does not have gets an empty cell.
        other = [f"{row.against_ratio:g}" if row.against_ratio is not None else ""] if against else []
        met = _MET[row.met]
        table.add_row(
            f"{row.name}: {row.goal.title}",
            "skipped" if row.skipped else number(row.value, row.goal.unit),
            _peer(row),
            "" if row.ratio is None else f"{row.ratio:g}",
            *other,
            goal_text(row.goal, row.peer),
            Text(met, style=_STYLES.get(met, "")),
        )
    return table


def _peer(row: Row) -> str:
    if row.peer_value is None:
        return ""
    return "\n".join(filter(None, [number(row.peer_value, row.goal.unit), row.peer if row.peer != STOCK else ""]))


def goal_text(goal: Goal, peer: str) -> str:
    """Return the limits of a goal, one a line."""
    return "\n".join(_limit_text(limit, goal, peer) for limit in goal.limits)


def _limit_text(limit: Limit, goal: Goal, peer: str) -> str:
    if limit.figure == RATIO:
        return f"{limit.direction} {limit.bound:g} x {peer.removesuffix(' Celery')}"
    if limit.figure == VALUE:
        return f"{limit.direction} {number(limit.bound, goal.unit)}"
    return f"{limit.label} {limit.direction} {number(limit.bound, limit.unit)}"


def number(value: float | None, unit: str) -> str:
    """Return a number with its unit: `13,300/s`, `4.7 us`."""
    if value is None:
        return ""
    digits = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:g}"
    return f"{digits}{'' if unit.startswith('/') or not unit else ' '}{unit}"
