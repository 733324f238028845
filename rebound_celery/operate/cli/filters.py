"""The switches that choose messages, the same for every command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rebound_celery.selection import Filter

_TIME = "TIME"
_DURATION = "DURATION"
_PATTERN = "PATTERN"

#: Field of a filter -> how its switch shows the value, and its help.
_SWITCHES: Mapping[str, tuple[str, str]] = {
    "topic": (_PATTERN, "The topic of origin or destination; * stands for any characters."),
    "key": ("KEY", "The record's key; base64:... if it is not text."),
    "destination": (_PATTERN, "The destination: kafka://orders, https://shop.example/*."),
    "exception": (_PATTERN, "The class of the last exception, with its module or without: *Timeout."),
    "reason": (_PATTERN, "The reason of a dead letter: retries-exhausted."),
    "attempt": ("NUMBER", "The next attempt; for a dead letter the last one."),
    "due_from": (_TIME, "Due at this time or later: 2030-01-31T18:00Z, now, +10min, -2h."),
    "due_to": (_TIME, "Due at this time or earlier."),
    "died_from": (_TIME, "Became a dead letter at this time or later: 2030-01-31T18:00Z, -2h."),
    "died_to": (_TIME, "Became a dead letter at this time or earlier."),
    "older_than": (
        _DURATION,
        "The first failure, or the dead letter, is at least this old: 30s, 10min, 2h, 1d.",
    ),
    "younger_than": (_DURATION, "The first failure, or the dead letter, is at most this old."),
    "header": ("NAME[=PATTERN]", "A header, with any value or this one. May be given several times."),
    "text": ("TEXT", "A text in the last error."),
    "task": (_PATTERN, "The name of an ordinary Celery task."),
}

#: The fields that only one of the two kinds of messages has.
_OF_PENDING = frozenset({"due_from", "due_to", "task"})
_OF_DEAD = frozenset({"died_from", "died_to"})

Command = Callable[..., Any]


def filter_switches(*, dead: bool = False) -> Callable[[Command], Command]:
    """Add the switches to a command, which gets what was given as the argument `switches`; `read_filter` reads it.

    Args:
        dead: whether the command is about dead letters, and not about what waits.
    """
    names = [name for name in _SWITCHES if name not in (_OF_PENDING if dead else _OF_DEAD)]

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_switches(*arguments: Any, **options: Any) -> Any:
            switches = {name: options.pop(name) for name in names}
            return command(*arguments, switches=switches, **options)

        decorated: Command = with_switches
        # The decorator that is applied last comes first in the help.
        for name in reversed(names):
            metavar, text = _SWITCHES[name]
            decorated = click.option(_switch(name), name, metavar=metavar, help=text, multiple=name == "header")(
                decorated
            )
        return decorated

    return decorate


def read_filter(switches: Mapping[str, Any]) -> Filter | None:
    """Return the filter of the switches that were given; None if none was.

    Raises:
        InvalidSettingError: naming the switch, its value, and what is allowed.
    """
    from rebound_celery.clock import SYSTEM_CLOCK
    from rebound_celery.selection import Filter

    given = {name: value for name, value in switches.items() if value not in (None, ())}
    return Filter.parse(given, SYSTEM_CLOCK.now_ms(), shown=_switch) if given else None


def choose(
    ids: tuple[str, ...], switches: Mapping[str, Any], what: str, *, all_of_them: bool, limit: int | None = None
) -> Filter | None:
    """Return the filter of a command that changes entries; None where IDs are given.

    Args:
        ids: the given IDs.
        switches: the switches of the filter.
        what: what the IDs are of, such as "messages".
        all_of_them: whether --all was given.
        limit: the value of --limit, for commands that take it with switches or --all only.

    Raises:
        click.UsageError: if it is not clear which entries are meant; it says what to leave out, or to give.
    """
    from rebound_celery.selection import Filter

    chosen = read_filter(switches)
    given = [_switch(name) for name, value in switches.items() if value not in (None, ())]
    if ids:
        others = [*given, *(["--all"] if all_of_them else []), *(["--limit"] if limit is not None else [])]
        if others:
            raise click.UsageError(f"IDs say which {what} are meant: leave out {_joined(others)}, or leave out the IDs")
    elif all_of_them and given:
        raise click.UsageError(f"--all means all {what}: leave it out, or leave out {_joined(given)}")
    elif not all_of_them and not given:
        raise click.UsageError(f"say which {what} are meant: give IDs, switches such as --topic, or --all")
    return Filter() if all_of_them else chosen


def _joined(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _switch(name: str) -> str:
    return f"--{name.replace('_', '-')}"
