"""Shows on stderr how far a search is, while it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from rebound_celery.operate.cli.printing import console
from rebound_celery.selection import Progress


class Watched:
    """The last progress of a search.

    Args:
        text: what is done.
        bar: shows it; None where nothing is shown.
        acts: whether it shows how many were changed, and not how many were found.

    Attributes:
        last: how far the search is; None before the first call.
    """

    def __init__(self, text: str, bar: Bar | None = None, *, acts: bool = False) -> None:
        self.last: Progress | None = None
        self._text = text
        self._bar = bar
        self._acts = acts
        self._task = None if bar is None else bar.add_task(text, total=None)

    def __call__(self, progress: Progress, note: str = "") -> None:
        """Show progress, with a note behind the text."""
        self.last = progress
        if self._bar is not None and self._task is not None:
            text = f"{self._text}: {progress.changed if self._acts else progress.matched:,}{note}"
            most = max(progress.total, progress.read)
            self._bar.update(self._task, completed=progress.read, total=most, description=text)


@contextmanager
def progress_bar(text: str, *, shown: bool = True, acts: bool = False) -> Iterator[Watched]:
    """Give what is called with the progress of a search, and show a bar if stderr is a terminal. It leaves nothing.

    Args:
        text: what is done, such as "found".
        shown: False shows no bar in any case.
        acts: whether the bar shows how many were changed, and not how many were found.
    """
    out = console(err=True)
    if not shown or not out.is_terminal:
        yield Watched(text)
        return
    wide = (MofNCompleteColumn(), TimeRemainingColumn()) if out.width >= 60 else ()
    columns = (TextColumn("{task.description}"), BarColumn(None), TaskProgressColumn(), *wide)
    with Bar(*columns, console=out, transient=True) as bar:
        yield Watched(text, bar, acts=acts)
