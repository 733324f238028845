"""Prints the balance of a run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from .output import say
from .summary import Summary

#: How many faults are printed.
_FAULTS_SHOWN = 10


def print_balance(
    console: Console, summary: Summary, first_calls: int, faults: Sequence[str], kept: str | None = None
) -> None:
    """Print what became of the messages, the faults, and what was left on the user's own servers.

    Args:
        console: where to print.
        summary: the run in numbers.
        first_calls: how many of the handler's calls were with records that the producer sent.
        faults: what was wrong.
        kept: what was left on the user's own servers; None if it is nothing.
    """
    say(console, f"The balance after {summary.duration_s:.1f} s, from looking for every message id in Kafka:")
    rows = _rows(summary, first_calls)
    width = max(len(str(number)) for number, _ in rows)
    for number, words in rows:
        say(console, f"{number:>{width}} {words}")
    if summary.produced == summary.succeeded + summary.dead + summary.waiting + summary.lost:
        say(
            console,
            f"{summary.produced} produced = {summary.succeeded} succeeded + {summary.dead} dead "
            f"+ {summary.waiting} waiting + {summary.lost} lost",
        )
    for fault in faults[:_FAULTS_SHOWN]:
        say(console, f"WRONG: {fault}")
    if len(faults) > _FAULTS_SHOWN:
        say(console, f"WRONG: ... and {len(faults) - _FAULTS_SHOWN} more")
    if not faults:
        say(console, "Nothing is wrong: attempts, delays and dead letters are as the policy says.")
    if kept is not None:
        say(console, kept)


def _waiting(count: int) -> str:
    return "were waiting for an attempt when the run ended; they are not lost" if count else "are waiting"


def _rows(summary: Summary, first_calls: int) -> list[tuple[int, str]]:
    return [
        (summary.produced, "messages were produced"),
        (summary.succeeded, "of them succeeded"),
        (summary.dead, f"are dead letters; {summary.always_failing} were made to fail every time"),
        (summary.waiting, _waiting(summary.waiting)),
        (summary.lost, "are lost"),
        (summary.duplicates, "were finished more than once"),
        (
            summary.consumed,
            f"times the handler was called: {first_calls} first deliveries + {summary.consumed - first_calls} retries",
        ),
        (summary.retried, f"retries were scheduled; {summary.delivered} of them were delivered"),
    ]
