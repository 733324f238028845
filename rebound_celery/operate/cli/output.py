"""Prints what a command says on the way, to an output that may be gone."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click


def say(text: str, *, err: bool = False) -> None:
    """Print a line. A reader that is gone or a full disk changes neither the work of the command nor its exit status.

    Args:
        text: the line.
        err: whether it goes to stderr.
    """
    try:
        click.echo(text, err=err)
    except OSError:
        # Python tries at the end to write what it could not write here, and exits with status 120 if that fails too.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, (sys.stderr if err else sys.stdout).fileno())
            os.close(nowhere)
