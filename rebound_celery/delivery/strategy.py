"""How a worker receives delivery tasks: many at a time, as one job of its pool, each still a Celery task of its own.

Celery asks a task's `Strategy` what to do with each message received. Celery's own strategy makes a job of the pool of
each message, which costs more than delivering it. This one gathers the messages that arrive together.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import signals
from celery.exceptions import InvalidTaskError
from celery.utils.imports import symbol_by_name
from celery.utils.time import timezone
from celery.worker.request import create_request_cls
from celery.worker.state import task_reserved
from kombu.asynchronous.timer import to_timestamp

from ..schedule.port import LOSSES_HEADER
from .events import TaskEvents
from .form import SLOW_HEADER
from .gatherer import Gatherer
from .job import Received, give_up, received_of
from .reading import set_aside, text_of
from .result import End

logger = logging.getLogger(__name__)


class Strategy:
    """Celery's `Task.Strategy` for the delivery task: takes the messages that a worker's connection brings.

    Args:
        task: the delivery task.
        app: the Celery app.
        consumer: the worker's consumer.
    """

    gatherer: Gatherer

    def __init__(self, task: Any, app: Any, consumer: Any) -> None:
        events = TaskEvents(consumer.event_dispatcher, task)
        # Otherwise nobody looks at more than the id of a message that is on its way to the pool. One of the signal's
        # receivers is the schedule's.
        task.form.details_wanted = lambda: events.is_on or len(signals.task_received.receivers) > 1
        self._task = task
        self._app = app
        self._consumer = consumer
        self._events = events
        self.gatherer = Gatherer(task, consumer, events)
        earlier = consumer.strategies.get(task.name)
        if isinstance(earlier, Strategy):
            self.gatherer.take_over(earlier.gatherer)
        elif task.ignored_rate_limit:
            logger.warning(
                "rate_limit=%r of task_annotations is ignored: Celery's rate limits do not apply to %s",
                task.ignored_rate_limit,
                task.name,
                extra={"event": "rate_limit_ignored"},
            )
        self._request_class = _request_class(task, app, consumer)
        self._utc = app.uses_utc_timezone()

    def __call__(self, message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        """Take a message; Celery calls this."""
        task, consumer, headers = self._task, self._consumer, message.headers
        try:
            if body is not None:
                raise InvalidTaskError("it is of task protocol 1")  # noqa: TRY301 - one way for all that is wrong
            request = self._request_class(
                message,
                on_ack=ack,
                on_reject=reject,
                app=self._app,
                hostname=consumer.hostname,
                eventer=consumer.event_dispatcher,
                task=task,
                connection_errors=consumer.connection_errors,
                # The body is decoded where it is delivered. What Celery shows of a task's arguments is their text.
                body=((headers.get("argsrepr"),), {}, {}),
                headers=headers,
                decoded=True,
                utc=self._utc,
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
        if losses >= task.max_worker_losses and give_up(task, request, losses, self._events):
            return
        is_slow = bool(headers.get(SLOW_HEADER))
        if request.eta:
            # A broker without the schedule: Celery's own way, a timer in this worker.
            due = to_timestamp(timezone.to_system(request.eta))
            consumer.timer.call_at(due, self.gatherer.add, (request, is_slow))
        else:
            self.gatherer.add(request, is_slow)


def _request_class(task: Any, app: Any, consumer: Any) -> type[Any]:
    """The class of this worker's requests: Celery's, which shows a message's text also where it was not decoded yet."""
    base: Any = create_request_cls(
        symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, consumer.event_dispatcher, app=app
    )

    class DeliveryRequest(base):
        def info(self, safe: bool = False) -> Any:
            shown = super().info(safe=safe)
            if not self.argsrepr:
                shown["args"] = [text_of(task, received_of(self))]
            return shown

    return DeliveryRequest


def _set_aside(task: Any, message: Any, error: InvalidTaskError, consumer: Any) -> None:
    received = Received(message.body, message.content_type, message.content_encoding, message.headers.get("id"), 0)
    if set_aside(task, received, error, consumer.hostname).end == End.BACK:
        message.reject_log_error(logger, consumer.connection_errors, requeue=True)
    else:
        message.ack_log_error(logger, consumer.connection_errors)
