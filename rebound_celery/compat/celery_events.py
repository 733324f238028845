"""Tries to send a worker's event once. For Celery 5.7 (`celery.events.dispatcher.EventDispatcher`).

A heartbeat that cannot be sent is tried again for ever, in the worker's loop. Where Redis takes connections and answers
nothing, the worker would do nothing else, and no signal would end it.
"""

from __future__ import annotations

from typing import Any

from celery.app.base import Celery
from celery.events.dispatcher import EventDispatcher as CeleryEventDispatcher

CELERYS_OWN = "celery.events.dispatcher:EventDispatcher"


class EventDispatcher(CeleryEventDispatcher):
    """Keeps an event that it cannot send, as Celery's does, for the next connection; it tries no event again."""

    def send(self, type: str, *args: Any, retry: bool = False, **fields: Any) -> Any:  # noqa: A002 - as in Celery
        # What keeps nothing is a task's own (`Task.send_event`), and only that task waits.
        return super().send(type, *args, retry=retry and not self.buffer_while_offline, **fields)


def use_dispatcher(app: Celery) -> None:
    """Send this worker's events with this class, unless the app has a class of its own."""
    events = app.events
    if events.dispatcher_cls == CELERYS_OWN:
        events.dispatcher_cls = f"{__name__}:{EventDispatcher.__name__}"
        vars(events).pop("Dispatcher", None)  # made already, from the class before
