"""The results of deliveries, as Celery's result backends keep them."""

from __future__ import annotations

import logging
import os
from typing import Any

from celery import states
from celery.app.task import Context
from celery.backends.base import DisabledBackend

from ..errors import DeadLetterError, DeliveryError, DroppedError
from ..message import message_id_of
from .delivery import Delivery
from .result import End, Result

logger = logging.getLogger(__name__)


def keeps_results(task: Any) -> bool:
    """Whether the app has a result backend, and wants it told of deliveries, or of failures alone."""
    return not isinstance(task.backend, DisabledBackend) and (
        not task.ignore_result or task.store_errors_even_if_ignored
    )


def store_result(task: Any, request: Context, result: Result) -> None:
    """Tell the app's result backend how a delivery ended, where the app has one and wants it told."""
    if not keeps_results(task):
        return
    backend = task.backend
    try:
        if result.end == End.DONE:
            backend.mark_as_done(request.id, result.text, request=request, store_result=not task.ignore_result)
        elif result.end == End.DEAD:
            backend.mark_as_failure(
                request.id, DeadLetterError(result.text), traceback=result.traceback or None, request=request
            )
        elif result.end == End.DROPPED:
            backend.mark_as_failure(request.id, DroppedError(result.text), request=request)
        elif result.end == End.AGAIN:
            backend.mark_as_retry(request.id, DeliveryError(result.text), request=request)
    except Exception as error:  # noqa: BLE001 - the delivery stands, whatever becomes of the note about it
        task.redact.log(
            logger,
            "the result of task %s could not be stored",
            request.id,
            error=error,
            extra={"event": "no_result", "message_id": message_id_of(request.id)},
        )


def store_started(task: Any, request: Context) -> None:
    """Tell the result backend that a delivery has begun, where the app wants that (`task_track_started`)."""
    try:
        task.backend.store_result(
            request.id, {"pid": os.getpid(), "hostname": request.hostname}, states.STARTED, request=request
        )
    except Exception as error:  # noqa: BLE001 - as above
        task.redact.log(
            logger,
            "the start of task %s could not be stored",
            request.id,
            error=error,
            extra={"event": "no_result", "message_id": message_id_of(request.id)},
        )


def request_of(task: Any, delivery: Delivery, worker: str) -> Context:
    """The task's request, from which backends take what they keep beside the result, and whom they answer."""
    return Context(
        {
            **delivery.task_headers,
            **_request(task, delivery.task_id, str(delivery.message), delivery.priority, worker),
            "root_id": delivery.root_id or delivery.task_id,
            "parent_id": delivery.parent_id,
            "retries": delivery.tries,
            "reply_to": delivery.reply_to,
        }
    )


def request_of_unread(task: Any, task_id: str, text: str, priority: int, worker: str) -> Context:
    """The task's request for a message that cannot be read; `text` says why."""
    return Context(
        {**_request(task, task_id, text, priority, worker), "root_id": task_id, "parent_id": None, "retries": 0}
    )


def _request(task: Any, task_id: str, text: str, priority: int, worker: str) -> dict[str, Any]:
    """What is in all requests."""
    return {
        "id": task_id,
        "task": task.name,
        "args": [text],
        "kwargs": {},
        "argsrepr": text,
        "kwargsrepr": "{}",
        "hostname": worker,
        "correlation_id": task_id,
        "ignore_result": task.ignore_result,
        "called_directly": False,
        "delivery_info": {
            "exchange": "",
            "routing_key": task.queue_name(),
            "priority": priority,
            "redelivered": False,
        },
    }
