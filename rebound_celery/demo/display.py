"""Shows a run while it goes on, on stderr."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..clock import SYSTEM_CLOCK, Clock
from .account import Counts
from .output import closing_noticed, say

#: Seconds between two lines where stderr is no terminal, as in a log of CI.
_PLAIN_EVERY_S = 10.0

#: How many of the lines that stay are shown in the panel.
_NOTES_SHOWN = 3

#: From this width on, addresses stand in the column of the other values.
_WIDE = 60


@dataclass(slots=True)
class View:
    """What the display shows.

    Attributes:
        phase: what the run does, such as "producing".
        elapsed_s: the seconds since the first message.
        duration_s: the seconds after which producing ends.
        counts: the numbers that the run's topics give.
        addresses: the addresses of the servers and of Flower, by name.
    """

    phase: str = "starting"
    elapsed_s: float = 0.0
    duration_s: float = 0.0
    counts: Counts | None = None
    addresses: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        if self.phase == "producing" and self.elapsed_s <= self.duration_s:
            return f"producing, {self.elapsed_s:.0f} of {self.duration_s:g} s"
        return f"{self.phase}, {self.elapsed_s:.0f} s" if self.elapsed_s else self.phase


class Display:
    """Shows a panel if it is `live`, which needs a terminal; else it writes a plain line from time to time.

    The panel is on the terminal's alternate screen, as an editor's text is: nothing of it is left afterwards, whatever
    was done to the window. Lines that stay are in the panel too, and are written when it ends.
    """

    def __init__(self, console: Console, *, live: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self._console = console
        self._clock = clock
        # The demo's own process writes nothing else to the terminal, so nothing has to be redirected.
        self._live = (
            Live(console=console, auto_refresh=False, screen=True, redirect_stdout=False, redirect_stderr=False)
            if live
            else None
        )
        self._notes: list[str] = []
        self._next_line = 0.0
        self._phase = ""

    def __enter__(self) -> Self:
        if self._live is not None:
            with closing_noticed(self._console):
                self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._live is not None:
            with closing_noticed(self._console):
                self._live.stop()
        for text in self._notes:
            say(self._console, text)
        self._notes.clear()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Give the terminal back for a while."""
        if self._live is None or not self._live.is_started:
            yield
            return
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def show(self, view: View) -> None:
        if self._live is not None:
            panel = _panel(view, self._notes[-_NOTES_SHOWN:], self._clock.now_ms(), wide=self._console.width >= _WIDE)
            with closing_noticed(self._console):
                self._live.update(panel, refresh=True)
            return
        now = self._clock.monotonic()
        if view.phase != self._phase or now >= self._next_line:
            self._phase, self._next_line = view.phase, now + _PLAIN_EVERY_S
            self.say(_line(view))

    def add_addresses(self, view: View, **addresses: str) -> None:
        """Add addresses to the panel; without a panel, write a line for each."""
        view.addresses = {**view.addresses, **addresses}
        if self._live is None:
            for name, address in addresses.items():
                self.say(f"{name} is at {address}")

    def say(self, text: str) -> None:
        """Write a line that stays."""
        if self._live is not None and self._live.is_started:
            self._notes.append(text)
        else:
            say(self._console, text)


def _line(view: View) -> str:
    counts = view.counts
    if counts is None or not counts.produced or view.phase not in ("producing", "draining"):
        return f"{view.phase} ..."
    return (
        f"{view.title}: {counts.produced} produced = {counts.succeeded} succeeded + {counts.dead} dead "
        f"+ {counts.waiting} waiting; {_consumed(counts)}; {_retries(counts) or 'no retries yet'}"
    )


def _consumed(counts: Counts) -> str:
    return f"{counts.consumed} consumed = {counts.first_calls} first + {counts.consumed - counts.first_calls} retries"


def _retries(counts: Counts) -> str:
    """The retries by attempt; many attempts are shortened to the first three and the rest."""
    numbers = [(attempt, count) for attempt, count in counts.calls.items() if attempt > 1]
    texts = [f"{count} at attempt {attempt}" for attempt, count in numbers[:3]]
    if rest := sum(count for _, count in numbers[3:]):
        texts.append(f"{rest} later")
    return ", ".join(texts)


def _due(counts: Counts, now_ms: int) -> str:
    if counts.next_due_ms is None or counts.last_due_ms is None:
        return "no retry waits"
    next_s, last_s = (max(0, due_ms - now_ms) / 1000 for due_ms in (counts.next_due_ms, counts.last_due_ms))
    return f"in {next_s:.1f} s" + (f", last in {last_s:.1f} s" if last_s > next_s else "")


def _panel(view: View, notes: list[str], now_ms: int, *, wide: bool) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    if view.counts is not None:
        counts = view.counts
        rows = [
            ("produced", f"{counts.produced} = succeeded + dead + waiting"),
            ("succeeded", f"{counts.succeeded}"),
            ("dead", f"{counts.dead}"),
            ("waiting", f"{counts.waiting}"),
            ("due next", _due(counts, now_ms)),
            ("consumed", _consumed(counts).replace("consumed ", "")),
            ("retries", _retries(counts) or "none yet"),
        ]
        for name, value in rows:
            table.add_row(name, Text(value, style=_STYLES.get(name, "")))
    # In a narrow terminal an address has a line of its own, because one that is broken cannot be clicked on.
    name_width = 11 if wide else 7
    lines = [
        Text(f"{name:<{name_width}}{address}", style="dim", overflow="fold") for name, address in view.addresses.items()
    ]
    lines += [Text(note, style="yellow") for note in notes]
    title = f"rebound demo: {view.title}"
    return Panel(
        Group(table, *lines), title=title, title_align="left", subtitle="Ctrl-C ends it", subtitle_align="right"
    )


_STYLES = {"succeeded": "green", "waiting": "yellow", "retries": "cyan", "dead": "red"}
