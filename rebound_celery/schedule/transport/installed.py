"""What was installed on an app, as the transport finds it by the connection's options.

A transport's options are shown to users as JSON (`inspect stats`), so they name the installation by a text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from ..port import ScheduleOptions

#: The name of the transport option whose value is the token of an installation.
OPTION = "rebound"

_installations: WeakValueDictionary[str, Installation] = WeakValueDictionary()


class Installation:
    """The schedule of one app.

    Args:
        token: a text by which this process knows it.
        read_options: asked whenever a channel is opened.
        tell_dead: called with the message of a Celery task that is a dead letter now, and the number of workers that
            were lost with it.
    """

    def __init__(
        self,
        token: str,
        read_options: Callable[[], ScheduleOptions],
        tell_dead: Callable[[dict[str, Any], int], None],
    ) -> None:
        self.token = token
        self.read_options = read_options
        self.tell_dead = tell_dead
        _installations[token] = self


def installation_of(token: object) -> Installation | None:
    """The installation with this token; None for an app that is gone, or is another process's."""
    return _installations.get(token) if isinstance(token, str) else None


def _nothing_to_finish() -> set[str]:
    return set()


#: Ids of the tasks that this process runs, or will run, whatever becomes of its connection. The worker's side puts its
#: own function here.
tasks_to_finish: Callable[[], set[str]] = _nothing_to_finish


def set_tasks_to_finish(ask: Callable[[], set[str]]) -> None:
    """Let the transport ask this which tasks are to be finished."""
    global tasks_to_finish
    tasks_to_finish = ask
