"""Announces the end of a task that no worker ran: to result backend, chord, events and signals, as Celery does."""

from __future__ import annotations

import base64
import logging
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.app.task import Context
from kombu.exceptions import ContentDisallowed, DecodeError, SerializationError
from kombu.message import Message

from ..transport.forms import DAMAGE

logger = logging.getLogger(__name__)


def revoked(app: Celery, message: dict[str, Any]) -> None:
    """A waiting task was revoked."""
    request = _request(message)
    if request is None:
        return
    task = app.tasks.get(request.task)
    app.backend.mark_as_revoked(request.id, "revoked", request=request, store_result=_stores_errors(request, task))
    _send_event(app, "task-revoked", uuid=request.id, terminated=False, signum=None, expired=False)
    signals.task_revoked.send(sender=task, request=request, terminated=False, signum=None, expired=False)


def worker_lost(app: Celery, message: dict[str, Any], losses: int) -> None:
    """A task is dead, for `losses` workers were lost while they held its message."""
    request = _request(message)
    if request is None:
        return
    task = app.tasks.get(request.task)
    error = WorkerLostError(f"{losses} workers were lost while they held this task")
    app.backend.mark_as_failure(request.id, error, request=request, store_result=_stores_errors(request, task))
    _send_event(app, "task-failed", uuid=request.id, exception=repr(error), traceback="")
    signals.task_failure.send(
        sender=task,
        task_id=request.id,
        exception=error,
        args=request.args,
        kwargs=request.kwargs,
        traceback=None,
        einfo=None,
    )


def _request(message: dict[str, Any]) -> Context | None:
    """The request as a worker would have had it: a chord, say, has to hear of the end of its part."""
    try:
        context = Context(message["headers"])
        if not all(value and isinstance(value, str) for value in map(message["headers"].get, ("id", "task"))):
            raise ValueError("it names no task, or has no id")
    except DAMAGE as error:
        logger.warning("a task that was removed could not be read, so its end is not told: %s", error)
        return None
    try:
        context.args, context.kwargs, embed = _decode(message)
        context.update({name: embed.get(name) for name in ("callbacks", "errbacks", "chain", "chord")})
    except (DecodeError, SerializationError, ContentDisallowed, *DAMAGE) as error:
        logger.debug("the body of task %s could not be read: %s", context.id, error)
    return context


def _decode(message: dict[str, Any]) -> Any:
    """The task's arguments, keyword arguments, and what follows it."""
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    return Message(
        body=body,
        content_type=message.get("content-type"),
        content_encoding=message.get("content-encoding"),
        headers=message["headers"],
    ).decode()


def _stores_errors(request: Context, task: Any) -> bool:
    return not request.ignore_result or (task is not None and bool(task.store_errors_even_if_ignored))


def _send_event(app: Celery, kind: str, **fields: Any) -> None:
    if app.conf.worker_send_task_events:
        with app.events.default_dispatcher() as dispatcher:
            dispatcher.send(kind, **fields)
