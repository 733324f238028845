"""How a worker receives delivery tasks: many at a time, as one job of its pool, each still a Celery task of its own.

Celery asks a task's `Strategy` what to do with each message received. Celery's own strategy makes a job of the pool of
each message, which costs more than delivering it. This one gathers the messages that arrive together.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import signals
from celery.exceptions import InvalidTaskError
from celery.utils.imports import symbol_by_name
from celery.utils.time import timezone
from celery.worker.request import create_request_cls
from celery.worker.state import task_reserved
from kombu.asynchronous.timer import to_timestamp

from ..schedule.port import LOSSES_HEADER
from .batch import End
from .events import TaskEvents
from .form import SLOW_HEADER
from .gatherer import Gatherer
from .job import Received, give_up, received_of

logger = logging.getLogger(__name__)


def strategy(task: Any, app: Any, consumer: Any) -> Callable[..., Any]:
    """Celery's `Task.Strategy` for the delivery task."""
    events = TaskEvents(consumer.event_dispatcher, task)
    # Without events nobody looks at more than the id of a message that is on its way to the pool.
    task.form.details_wanted = lambda: events.is_on
    request_class = _request_class(task, app, consumer)
    earlier = getattr(consumer.strategies.get(task.name), "gatherer", None)
    if earlier is not None:
        earlier.retire()
    gatherer = Gatherer(task, consumer, events)
    utc = app.uses_utc_timezone()

    def handle(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        headers = message.headers
        try:
            if body is not None:
                raise InvalidTaskError("it is of task protocol 1")  # noqa: TRY301 - one way for all that is wrong
            request = request_class(
                message,
                on_ack=ack,
                on_reject=reject,
                app=app,
                hostname=consumer.hostname,
                eventer=consumer.event_dispatcher,
                task=task,
                connection_errors=consumer.connection_errors,
                # The body is decoded where it is delivered. What Celery shows of a task's arguments is their text.
                body=((headers.get("argsrepr"),), {}, {}),
                headers=headers,
                decoded=True,
                utc=utc,
            )
        except InvalidTaskError as error:
            # Celery would drop it.
            _set_aside(task, message, error, consumer)
            return
        if request.revoked():
            return
        signals.task_received.send(sender=consumer, request=request)
        task_reserved(request)
        for callback in callbacks or ():
            callback(request)
        losses = headers.get(LOSSES_HEADER) or 0
        if losses >= task.max_worker_losses and give_up(task, request, losses, events):
            return
        is_slow = bool(headers.get(SLOW_HEADER))
        if request.eta:
            # A broker without the schedule: Celery's own way, a timer in this worker.
            consumer.timer.call_at(to_timestamp(timezone.to_system(request.eta)), gatherer.add, (request, is_slow))
        else:
            gatherer.add(request, is_slow)

    handle.gatherer = gatherer  # type: ignore[attr-defined]
    return handle


def _request_class(task: Any, app: Any, consumer: Any) -> type[Any]:
    """The class of this worker's requests: Celery's, which shows a message's text also where it was not decoded yet."""
    base: Any = create_request_cls(
        symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, consumer.event_dispatcher, app=app
    )

    class DeliveryRequest(base):
        def info(self, safe: bool = False) -> Any:
            shown = super().info(safe=safe)
            if not self.argsrepr:
                shown["args"] = [task.text_of(received_of(self))]
            return shown

    return DeliveryRequest


def _set_aside(task: Any, message: Any, error: InvalidTaskError, consumer: Any) -> None:
    received = Received(message.body, message.content_type, message.content_encoding, message.headers.get("id"), 0)
    if task.set_aside(received, error).end == End.BACK:
        message.reject_log_error(logger, consumer.connection_errors, requeue=True)
    else:
        message.ack_log_error(logger, consumer.connection_errors)
