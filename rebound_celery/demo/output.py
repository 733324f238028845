"""Writes to stdout and stderr. Whoever reads them may go away at any time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from rich.console import Console


class OutputClosedError(Exception):
    """The output cannot be written any more: its pipe or its terminal is closed, or the disk is full."""


class DemoConsole(Console):
    """A console that says with OutputClosedError that its pipe is closed; rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        raise OutputClosedError("nobody reads it any more")

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks at it, on a terminal that can move its cursor. FORCE_COLOR does not make one."""
        return self.is_terminal and not self.is_dumb_terminal and self.file.isatty()


@contextmanager
def closing_noticed(console: Console) -> Iterator[None]:
    """Raise OutputClosedError, once, where writing to the console fails. From then on the console writes nothing."""
    try:
        yield
    except (OutputClosedError, OSError) as error:
        console.quiet = True
        _abandon(console.file)
        raise OutputClosedError(str(error)) from error


def say(console: Console, text: str) -> None:
    """Write a line without markup and colours. Only a terminal gets it in several lines if it is too long."""
    with closing_noticed(console):
        console.print(text, markup=False, highlight=False, soft_wrap=not console.file.isatty())


def _abandon(stream: IO[str]) -> None:
    """Send nowhere what is still written to a closed stream. Python would report it when the process ends."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
