"""Makes the views of the schedule's entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from ..errors import ReboundError
from ..message import Message, codec, message_id_of
from ..message.address import HttpAddress
from ..message.encryption import KeyRing
from ..schedule.port import Health, Waiting, read_tasks
from ..selection import DEAD_LETTER, RETRY, TASK, UNREADABLE, PendingView


def views_of(entries: Sequence[Waiting], queue: str, keys: KeyRing, *, arguments: bool = False) -> list[PendingView]:
    """Return the view of each entry.

    Args:
        entries: what waits, or is leased.
        queue: the name of their queue.
        keys: the keys that open stored forms.
        arguments: whether the arguments of Celery tasks are shown.
    """
    tasks = read_tasks([entry.stored for entry in entries])
    decoded = iter(decode([entry for entry, task in zip(entries, tasks, strict=True) if task is None], keys))
    views = []
    for entry, task in zip(entries, tasks, strict=True):
        if isinstance(task, dict):
            views.append(_view_of_task(entry, queue, task, arguments=arguments))
            continue
        found = next(decoded) if task is None else task
        if isinstance(found, Exception):
            views.append(PendingView(kind=UNREADABLE, problem=str(found), **_place(entry, queue)))
        else:
            views.append(_view_of_message(entry, queue, *found))
    return views


def with_disabled(views: Sequence[PendingView], disabled: Mapping[str, Health]) -> list[PendingView]:
    """Return the views, with what is to be known of those that are for a disabled HTTP endpoint."""
    shown = []
    for view in views:
        name = endpoint_of(view)
        health = None if name is None else disabled.get(name)
        if health is not None:
            view = replace(view, disabled_since_ms=health.disabled_ms, disabled_reason=health.reason)
        shown.append(view)
    return shown


def endpoint_of(view: PendingView) -> str | None:
    """The HTTP endpoint to which an entry is delivered next; None for another destination."""
    address = view.dead_destination if view.kind == DEAD_LETTER else view.destination
    return address.parts.endpoint if isinstance(address, HttpAddress) else None


def decode(entries: Sequence[Waiting], keys: KeyRing) -> list[tuple[Message, dict[str, Any]] | ReboundError]:
    """Return for each entry of rebound's own its message and its context, or why it cannot be read."""
    opened = [keys.try_open(entry.stored) for entry in entries]
    forms = [
        (message_id_of(entry.id), form) for entry, form in zip(entries, opened, strict=True) if isinstance(form, bytes)
    ]
    decoded = iter(codec.decode_many(forms))
    return [next(decoded) if isinstance(form, bytes) else form for form in opened]


def _place(entry: Waiting, queue: str) -> dict[str, Any]:
    return {
        "id": entry.id,
        "queue": queue,
        "due_ms": None if entry.leased else entry.due_ms,
        "lease_end_ms": entry.due_ms if entry.leased else None,
        "lane": entry.lane,
        "priority": entry.priority,
        "losses": entry.losses,
    }


def _view_of_message(entry: Waiting, queue: str, message: Message, context: Mapping[str, Any]) -> PendingView:
    tries = context.get("tries", 0) if context else 0
    # In one call: `of_message` takes twice as long, and a filter may read a million of them.
    return PendingView(
        id=entry.id,
        message_id=message.id,
        destination=message.destination,
        origin=message.origin,
        group=message.group,
        key=message.key,
        headers=message.headers,
        reason=message.reason,
        failure=message.failure,
        history=message.history,
        first_failed_at_ms=message.first_failed_at,
        source=message.source,
        client_id=message.client_id,
        size_bytes=None if message.value is None else len(message.value),
        queue=queue,
        kind=RETRY if message.reason is None else DEAD_LETTER,
        due_ms=None if entry.leased else entry.due_ms,
        lease_end_ms=entry.due_ms if entry.leased else None,
        lane=entry.lane,
        priority=entry.priority,
        losses=entry.losses,
        attempt=message.attempt,
        max_retries=message.policy.max_retries,
        dead_destination=message.dead_destination,
        tries=tries if isinstance(tries, int) else 0,
    )


def _view_of_task(entry: Waiting, queue: str, message: Mapping[str, Any], *, arguments: bool) -> PendingView:
    headers, body = message.get("headers"), message.get("body")
    headers = headers if isinstance(headers, Mapping) else {}
    retries = headers.get("retries")
    return PendingView(
        kind=TASK,
        task=_text(headers.get("task")),
        attempt=retries + 1 if isinstance(retries, int) else 1,
        args=_text(headers.get("argsrepr")) if arguments else None,
        kwargs=_text(headers.get("kwargsrepr")) if arguments else None,
        size_bytes=len(body) if isinstance(body, str | bytes) else None,
        **_place(entry, queue),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
