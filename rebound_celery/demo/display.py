"""Shows a run while it goes on, on stderr, and prints its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..clock import SYSTEM_CLOCK, Clock
from .account import Counts
from .summary import Summary

#: Seconds between two lines where stderr is no terminal, as in a log of CI.
_PLAIN_EVERY_S = 10.0


@dataclass(slots=True)
class View:
    """What the display shows.

    Attributes:
        phase: what the run does, such as "producing".
        elapsed_s: the seconds since the first message.
        produced: how many messages Kafka has confirmed.
        waiting: how many of them are neither handled nor dead.
        counts: the numbers that the run's topics give.
        addresses: the addresses of the servers and of Flower, by name.
    """

    phase: str = "starting"
    elapsed_s: float = 0.0
    produced: int = 0
    waiting: int = 0
    counts: Counts | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)


class Display:
    """Shows a live panel on a terminal; elsewhere it writes a plain line from time to time."""

    def __init__(self, console: Console, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._console = console
        self._clock = clock
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._next_line = 0.0
        self._phase = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, view: View) -> None:
        if self._live is not None:
            self._live.update(_panel(view, self._clock.now_ms()), refresh=True)
            return
        now = self._clock.monotonic()
        if view.phase != self._phase or now >= self._next_line:
            self._phase, self._next_line = view.phase, now + _PLAIN_EVERY_S
            self.say(_line(view))

    def say(self, text: str) -> None:
        """Write a line that stays."""
        say(self._console, text)


def say(console: Console, text: str) -> None:
    """Write a line without markup, colours and wrapping."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _redelivered(counts: Mapping[int, int]) -> str:
    return ", ".join(f"attempt {attempt}: {count}" for attempt, count in counts.items()) or "none"


def _due_next(next_due_ms: int | None, now_ms: int) -> str:
    if next_due_ms is None:
        return "-"
    left_s = (next_due_ms - now_ms) / 1000
    return f"in {left_s:.1f} s" if left_s > 0 else "now"


def _line(view: View) -> str:
    if view.counts is None:
        return f"{view.phase} ..."
    counts = view.counts
    return (
        f"{view.phase}, {view.elapsed_s:.0f} s: produced {view.produced}, consumed {counts.consumed}, "
        f"succeeded {counts.succeeded}, waiting {view.waiting}, dead {counts.dead}, "
        f"redelivered {_redelivered(counts.redelivered)}"
    )


def _panel(view: View, now_ms: int) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column()
    if view.counts is not None:
        counts = view.counts
        rows = [
            ("produced", f"{view.produced}"),
            ("consumed", f"{counts.consumed}"),
            ("succeeded", f"{counts.succeeded}"),
            ("waiting", f"{view.waiting}"),
            ("due next", _due_next(counts.next_due_ms, now_ms)),
            ("redelivered", _redelivered(counts.redelivered)),
            ("dead", f"{counts.dead}"),
        ]
        for name, value in rows:
            table.add_row(name, Text(value, style=_STYLES.get(name, "")))
    for name, address in view.addresses.items():
        table.add_row(Text(name, style="dim"), Text(address, style="dim"))
    title = f"rebound demo: {view.phase}" + (f", {view.elapsed_s:.0f} s" if view.elapsed_s else "")
    return Panel(table, title=title, title_align="left", subtitle="Ctrl-C stops it", subtitle_align="right")


_STYLES = {"succeeded": "green", "waiting": "yellow", "redelivered": "cyan", "dead": "red"}


def print_summary(console: Console, summary: Summary, faults: Sequence[str], kept: str | None) -> None:
    """Print the summary, the faults, and what was left on the user's own servers."""
    rows = [
        (summary.produced, "messages produced"),
        (summary.consumed, "calls of the handler"),
        (summary.succeeded, "messages succeeded"),
        (summary.retried, f"calls failed and were to be retried; {summary.delivered} retries were delivered"),
        (summary.dead, f"messages are dead letters; {summary.always_failing} were picked to fail every time"),
        (summary.waiting, "messages still wait"),
        (summary.lost, "messages lost"),
        (summary.duplicates, "messages finished more than once"),
    ]
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right")
    table.add_column()
    for number, words in rows:
        table.add_row(str(number), words)
    say(console, f"After {summary.duration_s:.1f} s, by comparing every message id with the records in Kafka:")
    console.print(table, highlight=False)
    if faults:
        for fault in faults[:10]:
            say(console, f"WRONG: {fault}")
        if len(faults) > 10:
            say(console, f"WRONG: ... and {len(faults) - 10} more")
    else:
        say(console, "Attempts, delays and dead letters are as the policy says.")
    if kept is not None:
        say(console, kept)
