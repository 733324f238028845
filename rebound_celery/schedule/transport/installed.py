"""What was installed on an app, as the transport finds it by the connection's options.

A transport's options are shown to users as JSON (`inspect stats`), so they name the installation by a text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

from ...places import place_of_caller
from ..options import ScheduleOptions

#: The name of the transport option whose value is the token of an installation.
OPTION = "rebound"

#: The attribute of an app that keeps its installation.
ATTRIBUTE = "_rebound_schedule"

_installations: WeakValueDictionary[str, Installation] = WeakValueDictionary()


class Installation:
    """The schedule of one app.

    Args:
        token: a text by which this process knows it.
        read_options: asked whenever a channel is opened.
        tell_dead: called with the message of a Celery task that is a dead letter now, and the number of workers that
            were lost with it.
        app_name: the name of its app.
        is_copy: whether this app is a copy of another process's.
    """

    def __init__(
        self,
        token: str,
        read_options: Callable[[], ScheduleOptions],
        tell_dead: Callable[[dict[str, Any], int], None],
        *,
        app_name: str | None = None,
        is_copy: bool = False,
    ) -> None:
        self.token = token
        self.read_options = read_options
        self.tell_dead = tell_dead
        self.app_name = app_name
        self.is_copy = is_copy
        #: Where it was installed.
        self.place = place_of_caller()
        _installations[token] = self


def is_installed(app: Any) -> bool:
    """Whether an app has the schedule."""
    return ATTRIBUTE in vars(app)


def installation_on(app: Any) -> Installation | None:
    """The schedule of an app; None if it has none."""
    found: Installation | None = vars(app).get(ATTRIBUTE)
    return found


def installation_of(token: object) -> Installation | None:
    """The installation with this token; None for an app that is gone, or is another process's."""
    return _installations.get(token) if isinstance(token, str) else None


def original_of(app_name: str | None, token: str) -> Installation | None:
    """The installation in this process of which a copy was made, here or elsewhere; None if it cannot be told.

    Elsewhere it had another token: then it is the only one of an app with this name that is no copy itself.
    """
    same = _installations.get(token)
    if same is not None and same.app_name == app_name and not same.is_copy:
        return same
    found = [one for one in list(_installations.values()) if one.app_name == app_name and not one.is_copy]
    return found[0] if len(found) == 1 else None


class Load(NamedTuple):
    """What a worker's pool has to do.

    Attributes:
        size: how many tasks it runs at once; with autoscale, how many it may run.
        busy: how many tasks the worker has that run, or wait for the pool.
        begun: how many tasks have begun since the worker's start.
    """

    size: int
    busy: int
    begun: int


class Worker(Protocol):
    """The Celery worker of this process, as far as the transport has to know it."""

    def is_there(self) -> bool:
        """Whether this process has a worker, or one that starts."""

    def owns(self, channel: Any) -> bool:
        """Whether the worker consumes its tasks over this channel."""

    def load(self, channel: Any) -> Load | None:
        """What its pool has to do; None for a channel that is not the worker's."""

    def tasks_to_finish(self) -> set[str]:
        """Ids of the tasks that this process runs, or will run, whatever becomes of its connection."""


class _NoWorker:
    """A process without a Celery worker."""

    def is_there(self) -> bool:
        return False

    def owns(self, channel: Any) -> bool:  # noqa: ARG002 - as in the Protocol
        return False

    def load(self, channel: Any) -> Load | None:  # noqa: ARG002
        return None

    def tasks_to_finish(self) -> set[str]:
        return set()


#: The worker's side puts its own here.
worker: Worker = _NoWorker()


def set_worker(this: Worker) -> None:
    """Let the transport ask this about the process's worker."""
    global worker
    worker = this
