"""Prints tables, lines and JSON for operators, on terminals of any width and into pipes that may be closed.

Commands import it in their bodies: it imports rich, and every `celery` command loads their modules.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from shutil import get_terminal_size
from typing import Any, NamedTuple

import click
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rebound_celery.selection import duration_text

#: The width where there is neither a terminal nor COLUMNS, so that nothing is cut off in a file.
_FILE_WIDTH = 200
#: Below this width, each row is printed in lines of its own.
_NARROW = 72
#: The widest column that is never cut off: the id of a delivery task is a UUID and a short ending.
_WIDEST_ID = 41
#: How many spaces are between two columns.
_GAP = 2


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its heading.
        whole: whether it is never cut off: a long text goes on in the next line, as with ids that people copy.
        short: whether it stands beside the others where each row has lines of its own.
        right: whether its texts end at the right.
        least_width: it is left out of the table of a terminal that is less wide.
        folds: whether a long text goes on in the next line, within the room that the others leave.
    """

    title: str
    whole: bool = False
    short: bool = False
    right: bool = False
    least_width: int = 0
    folds: bool = False


class _Console(Console):
    """A console that leaves a closed pipe to `output_may_close`; rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        raise


def console(*, err: bool = False) -> Console:
    """Return a console for stdout or stderr. Nothing in its texts is markup."""
    file = sys.stderr if err else sys.stdout
    width = None if file.isatty() else get_terminal_size((_FILE_WIDTH, 0)).columns
    return _Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def print_rows(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, header: bool = True) -> None:
    """Print rows as a table. On a narrow terminal each row is printed in lines of its own."""
    out = console()
    if out.width < _NARROW:
        for row in rows:
            _print_lines(out, columns, row)
        return
    shown = [(index, column) for index, column in enumerate(columns) if column.least_width <= out.width]
    table = Table(box=None, pad_edge=False, show_header=header, header_style="bold")
    widths = _widths([column for _, column in shown], [[plain(row[index]) for index, _ in shown] for row in rows], out)
    for (_, column), width in zip(shown, widths, strict=True):
        table.add_column(
            column.title,
            width=width,
            overflow="fold" if column.whole or column.folds else "ellipsis",
            no_wrap=not (column.whole or column.folds),
            justify="right" if column.right else "left",
        )
    for row in rows:
        table.add_row(*(Text(plain(row[index])) for index, _ in shown))
    out.print(table)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], out: Console) -> list[int]:
    """The width of each column: what is short or never cut off first, and the others share the rest."""
    longest = [max([len(column.title), *(cell_len(row[i]) for row in rows)]) for i, column in enumerate(columns)]
    fixed = [column.short or column.whole for column in columns]
    widths = [min(most, _WIDEST_ID) for most in longest]
    if not out.file.isatty() and out.width == _FILE_WIDTH:
        # In a file or a pipe, what people copy is never in two lines: the lines are longer instead.
        for index, column in enumerate(columns):
            if column.whole:
                out.width += longest[index] - widths[index]
                widths[index] = longest[index]
    left = out.width - _GAP * (len(columns) - 1) - sum(w for w, is_fixed in zip(widths, fixed, strict=True) if is_fixed)
    others = fixed.count(False)
    # The shortest first, so that the longest have what these leave.
    for index in sorted(range(len(columns)), key=longest.__getitem__):
        if not fixed[index]:
            widths[index] = max(1, min(longest[index], left // others))
            left, others = left - widths[index], others - 1
    return widths


def _print_lines(out: Console, columns: Sequence[Column], row: Sequence[str]) -> None:
    cells = [(column, plain(cell)) for column, cell in zip(columns, row, strict=True) if cell]
    out.print(Text("  ".join(cell for column, cell in cells if column.short)), overflow="fold")
    for column, cell in cells:
        if column.whole or column.folds:
            out.print(Text(f"  {cell}"), overflow="fold")
        elif not column.short:
            out.print(Text(f"  {cell}"), overflow="ellipsis", no_wrap=True)


def print_fields(fields: Mapping[str, str | None]) -> None:
    """Print names and values, one a line; those without a value are left out."""
    out = console()
    width = max((len(name) for name, value in fields.items() if value), default=0) if out.width >= _NARROW else 0
    for name, value in fields.items():
        if value:
            out.print(Text(f"{plain(name)}:".ljust(width + 1) + f" {plain(value)}"), overflow="fold")


def print_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object as a line."""
    click.echo(json.dumps(value))


@contextmanager
def output_may_close() -> Iterator[None]:
    """End the command quietly where the reader of stdout is gone, and with an error where the disk is full."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered goes nowhere: Python would report it when the process ends.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        if error.errno != errno.EPIPE:
            raise click.ClickException(f"the output cannot be written: {error.strerror}") from None


def plain(text: str) -> str:
    """Return a text from outside without what could steer a terminal: such characters are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character == "\n" else ascii(character)[1:-1]
        for character in text
    )


def from_now(time_ms: int | None, now_ms: int) -> str:
    """Return a point in time as people need it: `in 5min`, `3h ago`."""
    if time_ms is None:
        return ""
    if time_ms >= now_ms:
        return f"in {duration_text((time_ms - now_ms) / 1000)}"
    return f"{duration_text((now_ms - time_ms) / 1000)} ago"


def at(time_ms: int | None, now_ms: int) -> str | None:
    """Return a point in time in the local zone, and how far it is."""
    if time_ms is None:
        return None
    try:
        moment = datetime.fromtimestamp(time_ms / 1000).astimezone().isoformat(" ", "seconds")
    except (OverflowError, ValueError, OSError):
        moment = f"{time_ms} ms"
    return f"{moment} ({from_now(time_ms, now_ms)})"
