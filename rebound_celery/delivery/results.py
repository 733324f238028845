"""The results of deliveries, as Celery's result backends keep them."""

from __future__ import annotations

import logging
from typing import Any

from celery.app.task import Context
from celery.backends.base import DisabledBackend

from ..errors import DeadLetterError, DeliveryError
from .batch import End, Result
from .delivery import Delivery

logger = logging.getLogger(__name__)


def store_result(task: Any, delivery: Delivery, result: Result, worker: str | None) -> None:
    """Tell the app's result backend how a delivery ended, where the app has one and wants it told."""
    backend = task.backend
    if task.ignore_result or isinstance(backend, DisabledBackend):
        return
    request = _request(task, delivery, worker)
    try:
        if result.end == End.DONE:
            backend.mark_as_done(delivery.task_id, result.text, request=request)
        elif result.end == End.DEAD:
            backend.mark_as_failure(
                delivery.task_id, DeadLetterError(result.text), traceback=result.traceback or None, request=request
            )
        elif result.end == End.AGAIN:
            backend.mark_as_retry(delivery.task_id, DeliveryError(result.text), request=request)
    except Exception:
        # The delivery stands, whatever becomes of the note about it.
        logger.exception("the result of task %s could not be stored", delivery.task_id, extra={"event": "no_result"})


def _request(task: Any, delivery: Delivery, worker: str | None) -> Context:
    """The task's request, from which backends take what they keep beside the result, and whom they answer."""
    return Context(
        {
            **delivery.task_headers,
            "id": delivery.task_id,
            "task": task.name,
            "args": [str(delivery.message)],
            "kwargs": {},
            "root_id": delivery.root_id or delivery.task_id,
            "parent_id": delivery.parent_id,
            "retries": delivery.tries,
            "hostname": worker,
            "reply_to": delivery.reply_to,
            "correlation_id": delivery.task_id,
            "ignore_result": task.ignore_result,
            "delivery_info": {"exchange": "", "routing_key": task.queue_name(), "priority": delivery.priority},
        }
    )
