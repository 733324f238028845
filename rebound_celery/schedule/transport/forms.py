"""Reads stored messages: those of Celery's own form, and those of the owners of leased queues."""

from __future__ import annotations

import base64
import json
from typing import Any

from ...errors import UnknownVersionError
from ..options import LOSSES_HEADER, ScheduleOptions
from ..store.values import Claimed
from . import celery_form, eta

#: What reading a damaged message meets.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


def is_celerys(stored: bytes) -> bool:
    """Whether this is the stored form of an ordinary Celery task."""
    return stored[:1] == celery_form.VERSION


def read_celerys(stored: bytes) -> dict[str, Any] | Exception | None:
    """The message of an ordinary Celery task, or why it cannot be read; None for another's stored form."""
    if not is_celerys(stored):
        return None
    try:
        return celery_form.decode(stored)
    except DAMAGE as error:
        return error


def open_stored(options: ScheduleOptions, queue: str, claimed: Claimed) -> dict[str, Any]:
    """The message of kombu's that was stored.

    Raises:
        UnknownVersionError: if a later version stored it.
        ValueError, LookupError, TypeError, AttributeError, RecursionError: if it is damaged.
    """
    if is_celerys(claimed.stored):
        return celery_form.decode(claimed.stored)
    form = options.leased.get(queue)
    if form is None:
        raise UnknownVersionError(f"stored form {claimed.stored[:1]!r}")
    return form.open(claimed)


def open_claimed(options: ScheduleOptions, queue: str, claimed: Claimed) -> dict[str, Any]:
    """The message as kombu delivers it, but for its delivery tag; raises what `open_stored` raises."""
    message = open_stored(options, queue, claimed)
    headers = message["headers"]
    if not isinstance(headers, dict):
        raise ValueError("its headers are none")  # noqa: TRY004 - damaged data, not a wrong argument
    if queue in options.leased and not _names_a_task(message):
        raise ValueError("it names no task")
    eta.hide(headers)
    if claimed.losses:
        headers[LOSSES_HEADER] = claimed.losses
        headers["redelivered"] = True
        message["properties"].setdefault("delivery_info", {})["redelivered"] = True
    return message


def _names_a_task(message: dict[str, Any]) -> bool:
    """Whether Celery would find the name of a task in it: in its headers, or in its body in task protocol 1."""
    if "task" in message["headers"]:
        return isinstance(message["headers"]["task"], str)
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    return isinstance(json.loads(body)["task"], str)
