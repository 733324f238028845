"""Task events of many requests as one message: Celery's own sender publishes at most two dozen at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from celery.utils.time import utcoffset

from ..clock import SYSTEM_CLOCK, Clock

_GROUP = "task"

_to_json = msgspec.json.Encoder().encode


class TaskEvents:
    """Sends events about a task's requests as the worker's event dispatcher would, where that is on.

    Args:
        eventer: the worker's event dispatcher; None where it has none.
        task: the task, which may have its events turned off.
        clock: tells the time.
    """

    def __init__(self, eventer: Any, task: Any, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._eventer = eventer
        self._task = task
        self._clock = clock

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
        eventer = self._eventer
        forward = eventer.clock.forward
        same = {
            "type": kind,
            "hostname": eventer.hostname,
            "utcoffset": utcoffset(),
            "pid": eventer.pid,
            "timestamp": self._clock.now_ms() / 1000,
        }
        events = [{**same, **fields, "clock": forward()} for fields in each]
        if events and not self._send(events):
            with eventer.mutex:
                # Where the dispatcher gathers the events of a group until it sends them as one message.
                eventer._group_buffer[_GROUP].extend(events)  # noqa: SLF001 - of celery
            # It keeps them while Redis is away.
            eventer.flush(errors=False)

    def _send(self, events: list[dict[str, Any]]) -> bool:
        """Publish events that are written as JSON here, which takes a fifth of the time; False if that cannot be."""
        eventer = self._eventer
        if eventer.serializer != "json":
            return False
        try:
            with eventer.mutex:
                eventer.producer.publish(
                    _to_json(events),
                    routing_key=f"{_GROUP}.multi",
                    exchange=eventer.exchange.name,
                    declare=[eventer.exchange],
                    content_type="application/json",
                    content_encoding="utf-8",
                    headers=eventer.headers,
                    delivery_mode=eventer.delivery_mode,
                )
        except Exception:  # noqa: BLE001 - the dispatcher meets the same fault, and knows what to do
            return False
        return True
