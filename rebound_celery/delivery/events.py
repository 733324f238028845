"""Task events of many requests as one message: Celery's own sender publishes at most two dozen at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery.events import Event
from celery.utils.time import utcoffset

_GROUP = "task"


class TaskEvents:
    """Sends events about a task's requests as the worker's event dispatcher would, where it is on.

    Args:
        eventer: the worker's event dispatcher; None where it has none.
        task: the task, which may have its events turned off.
    """

    def __init__(self, eventer: Any, task: Any) -> None:
        self._eventer = eventer
        self._task = task

    @property
    def is_on(self) -> bool:
        """Whether somebody wants these events; it can change while the worker runs (`celery control enable_events`)."""
        eventer = self._eventer
        if not eventer or not eventer.enabled or not self._task.send_events:
            return False
        return not eventer.groups or _GROUP in eventer.groups

    def tell(self, kind: str, each: Iterable[dict[str, Any]]) -> None:
        """Send an event of this kind for each mapping of fields. Nothing is asked of `each` where events are off."""
        if not self.is_on:
            return
        eventer, offset = self._eventer, utcoffset()
        events = [
            Event(
                kind,
                hostname=eventer.hostname,
                utcoffset=offset,
                pid=eventer.pid,
                clock=eventer.clock.forward(),
                **fields,
            )
            for fields in each
        ]
        with eventer.mutex:
            # Where it gathers the events of a group until it sends them as one.
            eventer._group_buffer[_GROUP].extend(events)  # noqa: SLF001
        eventer.flush(errors=False)
