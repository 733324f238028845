"""Ends a command on SIGTERM and SIGINT, whatever it does at that moment."""

from __future__ import annotations

import signal
import threading
from functools import partial
from types import FrameType
from typing import NoReturn

import click


class StoppedBySignal(SystemExit):
    """A signal ended the command; the exit status is 128 and the signal's number, as shells have it."""


def exit_on_signals(ctx: click.Context) -> None:
    """Have SIGTERM and SIGINT raise StoppedBySignal in the main thread, until the context is closed.

    The kernel gives the first process of a container no default action: without a handler, it would ignore SIGTERM.
    A command that ends in order sets handlers of its own later.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        ctx.call_on_close(partial(signal.signal, number, signal.signal(number, _stop)))


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise StoppedBySignal(128 + number)
