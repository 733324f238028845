"""The first deliveries of messages: children of the Celery task in which they are scheduled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from .. import registry, tracing
from ..clock import Clock
from ..message import Message
from .delivery import Delivery
from .form import DeliveryForm


class NewDeliveries:
    """Makes deliveries of messages, as `apply_async` makes tasks in the task that calls it.

    Args:
        app: the Celery app. Nothing is read from it before the first use.
        clock: tells the time.
    """

    def __init__(self, app: Any, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    def of(self, messages: Iterable[tuple[Message, int, int]]) -> list[Delivery]:
        """Make a delivery of each message, its due time in Unix milliseconds and its priority."""
        parent = self._app.current_worker_task
        root_id = parent_id = None
        if parent is not None:
            root_id, parent_id = parent.request.root_id or parent.request.id, parent.request.id
        reply_to = self._app.thread_oid if self._replies else None
        deliveries = [
            Delivery(message, message.task_id, due_ms, priority, root_id, parent_id, reply_to)
            for message, due_ms, priority in messages
        ]
        note_waits(self._app, deliveries, self._clock)
        return deliveries

    @cached_property
    def _replies(self) -> bool:
        """Whether the app's results are sent as messages to whoever scheduled the task."""
        return str(self._app.conf.result_backend or "").startswith("rpc")


def tell_before(form: DeliveryForm, deliveries: Sequence[Delivery], now_ms: int) -> Callable[[], None] | None:
    """Send the signals of each delivery. They come in pairs: after each message, before the next one.

    Returns what sends the last signal, which is left to send once all are stored.
    """
    last: Callable[[], None] | None = None
    for delivery in deliveries:
        if last is not None:
            last()
        last = form.before_publish(delivery, now_ms)
    return last


def note_waits(app: Any, deliveries: Iterable[Delivery], clock: Clock) -> None:
    """Note that deliveries wait from now on, if the app is traced."""
    if tracing.find(wanted=True) is None:
        return
    rebound = registry.installed(app)
    if rebound is not None and rebound.settings.tracing:
        now_ms = clock.now_ms()
        for delivery in deliveries:
            delivery.since_ms = now_ms
