"""What a worker receives: it is read, or kept as it is where it cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..errors import ReboundError, UnknownVersionError, WireFormatError
from ..message import Message, codec, message_id_of
from ..schedule.port import DeadEntry, Entry
from .delivery import Delivery
from .form import stored_form_of
from .job import Received
from .observed import tell_failure
from .result import End, Result
from .results import request_of_unread, store_result

#: The reason of a dead letter whose stored form cannot be read.
UNREADABLE = "unreadable"

#: Milliseconds until a message of a later version is looked at again.
_UNKNOWN_PAUSE_MS = 300_000

logger = logging.getLogger(__name__)


def read_many(task: Any, batch: Sequence[Received], worker: str) -> list[Delivery | Result]:
    """What each message brings: its delivery; or how it ended, if it cannot be read."""
    stored: list[bytes | WireFormatError] = []
    for received in batch:
        try:
            stored.append(stored_form_of(task.app, received.body, received.content_type, received.content_encoding))
        except WireFormatError as error:
            stored.append(error)
    opened = [task.keys.try_open(form) if isinstance(form, bytes) else form for form in stored]
    forms = [
        (message_id_of(received.task_id), form)
        for received, form in zip(batch, opened, strict=True)
        if isinstance(form, bytes)
    ]
    decoded = iter(codec.decode_many(forms))
    return [
        set_aside(task, received, form, worker)
        if isinstance(form, WireFormatError)
        # What no key opens is stored again as it came.
        else _delivery_of(task, received, form, next(decoded) if isinstance(plain, bytes) else plain, worker)
        for received, form, plain in zip(batch, stored, opened, strict=True)
    ]


def _delivery_of(
    task: Any,
    received: Received,
    stored: bytes,
    decoded: tuple[Message, dict[str, Any]] | ReboundError,
    worker: str,
) -> Delivery | Result:
    try:
        if isinstance(decoded, ReboundError):
            raise decoded
        return Delivery.of(received.task_id, *decoded, received.priority)
    except UnknownVersionError as error:
        return _leave(task, received, stored, error)
    except WireFormatError as error:
        return set_aside(task, received, error, worker)


def text_of(task: Any, received: Received) -> str:
    """What a message is, for people."""
    try:
        stored = stored_form_of(task.app, received.body, received.content_type, received.content_encoding)
        return str(Delivery.decode(received.task_id, stored, keys=task.keys).message)
    except (UnknownVersionError, WireFormatError) as error:
        return str(error)


def set_aside(task: Any, received: Received, error: Exception, worker: str) -> Result:
    """Keep what cannot be read among the dead letters in Redis, as it is, and tell that its task has failed."""
    task_id = str(received.task_id)
    logger.error(
        "task %s cannot be read and becomes a dead letter: %s",
        task_id,
        error,
        extra={"event": "unreadable", "message_id": task_id},
    )
    body = received.body
    stored = body if isinstance(body, bytes) else str(body).encode("utf-8", "backslashreplace")
    try:
        with task.publisher().open() as schedule:
            schedule.keep_dead([DeadEntry(task_id, UNREADABLE, stored)])
        # Whether messages wait behind it cannot be read.
        task.chains().gone([task_id], dead=True)
    except Exception as fault:  # noqa: BLE001 - it stays where it is
        _log_kept(task, task_id, fault)
        return Result(End.BACK, str(fault))
    result = Result(End.DEAD, f"{UNREADABLE}: {error}")
    request = request_of_unread(task, task_id, str(error), received.priority, worker)
    store_result(task, request, result)
    tell_failure(task, request, result)
    return result


def _leave(task: Any, received: Received, stored: bytes, error: UnknownVersionError) -> Result:
    """Leave what a later version has stored in the schedule, for a worker of that version."""
    logger.error(
        "task %s stays scheduled: %s",
        received.task_id,
        error,
        extra={"event": "unknown_version", "message_id": received.task_id},
    )
    due_ms = task.clock.now_ms() + _UNKNOWN_PAUSE_MS
    try:
        with task.publisher().open() as schedule:
            schedule.enqueue([Entry(received.task_id, due_ms, stored, priority=received.priority)])
    except Exception as fault:  # noqa: BLE001 - it stays where it is
        _log_kept(task, received.task_id, fault)
        return Result(End.BACK, str(fault))
    return Result(End.AGAIN, str(error))


def _log_kept(task: Any, task_id: str, fault: Exception) -> None:
    extra: dict[str, object] = {"event": "not_stored"}
    task.redact.log(logger, "task %s goes back to its queue", task_id, error=fault, extra=extra)
