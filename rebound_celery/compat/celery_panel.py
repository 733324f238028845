"""Extends commands of a worker's remote control. For Celery 5.7 (`celery.worker.control.Panel.data`).

Celery lets an app add commands, but not extend its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def extend_command(names: Iterable[str], extended: Callable[..., Any]) -> None:
    """Let the command with these names call `extended`, with Celery's own as `original`. A second time changes
    nothing."""
    # Only a worker has it, and importing it takes time.
    from celery.worker.control import Panel

    for name in names:
        original = Panel.data[name]
        if not hasattr(original, "rebound"):
            Panel.data[name] = _extended(extended, original)


def _extended(extended: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    def command(state: Any, *args: Any, **kwargs: Any) -> Any:
        return extended(state, *args, original=original, **kwargs)

    command.rebound = True  # type: ignore[attr-defined]
    command.__doc__ = original.__doc__
    return command
