"""From a message to the Celery message of the task that delivers it, as `apply_async(eta=...)` would make it.

`apply_async` rebuilds for each call what is the same for all retries. Here that part is made once, from Celery's own
`app.amqp`, and only what differs is filled in; a test holds the result against what `apply_async` sends, field by
field.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import signals
from celery.events import Event
from kombu import serialization

from ..message import Message
from .strategy import KIND_HEADER

TASK_NAME = "rebound.deliver"

#: kombu's Redis priorities run from 0, the highest, to 9.
PRIORITY_HIGH = 0
PRIORITY_NORMAL = 3

#: Events that are sent as one at most.
_EVENTS_AT_ONCE = 1000

_to_json = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(slots=True)
class Delivery:
    """A delivery task to store: its message, when it is due (Unix milliseconds; what has passed means at once), its id,
    how often it was retried, and its priority."""

    message: Message
    due_ms: int
    task_id: str
    retries: int = 0
    priority: int = PRIORITY_NORMAL


@dataclass(frozen=True, slots=True)
class _Template:
    """What is the same in all delivery tasks of an app."""

    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    embed: Mapping[str, Any]
    #: content type, content encoding and body for the wire form of a message
    encode: Callable[[dict[str, Any]], tuple[str, str, str | bytes]]


class TaskMessages:
    """Makes the messages of delivery tasks, and the events that tell of them.

    Args:
        app: the Celery app. Nothing is read from it before the first use.
        queue: the name of the queue that rebound's workers consume.
    """

    def __init__(self, app: Any, queue: str) -> None:
        self._app = app
        self._queue = queue
        self._template: _Template | None = None

    def make(self, deliveries: Sequence[Delivery]) -> list[dict[str, Any]]:
        """A message for each delivery task, as kombu's channel takes it."""
        template = self._template or self._make_template()
        family: dict[str, Any] = {}
        if (parent := self._app.current_worker_task) is not None:
            family = {"root_id": parent.request.root_id or parent.request.id, "parent_id": parent.request.id}
        reply_to, now_ms = self._app.thread_oid, time.time_ns() // 1_000_000
        return [self._make_one(delivery, template, family, reply_to, now_ms) for delivery in deliveries]

    def _make_one(
        self, delivery: Delivery, template: _Template, family: Mapping[str, Any], reply_to: str, now_ms: int
    ) -> dict[str, Any]:
        message, task_id = delivery.message, delivery.task_id
        headers = {
            **template.headers,
            "id": task_id,
            "root_id": task_id,
            **family,
            "argsrepr": str(message),
            "retries": delivery.retries,
            KIND_HEADER: message.target.kind,
        }
        if delivery.due_ms > now_ms:
            headers["eta"] = datetime.fromtimestamp(delivery.due_ms / 1000, UTC).isoformat()
        properties = {
            **template.properties,
            "correlation_id": task_id,
            "reply_to": reply_to,
            "priority": delivery.priority,
            "delivery_info": {},
        }
        wire = message.to_wire()
        if signals.before_task_publish.receivers:
            # Tracing instruments add their context here.
            signals.before_task_publish.send(
                sender=TASK_NAME,
                body=((wire,), {}, template.embed),
                exchange="",
                routing_key=self._queue,
                declare=[],
                headers=headers,
                properties=properties,
                retry_policy={},
            )
        content_type, content_encoding, body = template.encode(wire)
        return {
            "body": body,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": properties,
        }

    def _make_template(self) -> _Template:
        task = self._app.tasks[TASK_NAME]
        headers, properties, (_args, _kwargs, embed), _event = self._app.amqp.as_task_v2(
            "",
            TASK_NAME,
            args=(),
            kwargs={},
            time_limit=task.time_limit,
            soft_time_limit=task.soft_time_limit,
            ignore_result=task.ignore_result,
        )
        self._template = _Template(
            headers={**headers, "kwargsrepr": "{}"},
            properties={**properties, "delivery_mode": 2},
            embed=embed,
            encode=_make_encoder(self._app.conf.task_serializer, embed),
        )
        return self._template

    def tell(self, messages: Sequence[dict[str, Any]]) -> None:
        """Send the signals that Celery sends after it has published."""
        if not signals.after_task_publish.receivers:
            return
        for message in messages:
            signals.after_task_publish.send(
                sender=TASK_NAME,
                body=message["body"],
                headers=message["headers"],
                exchange="",
                routing_key=self._queue,
            )

    def events(self, messages: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], Any, str]]:
        """What tells those who watch, such as Flower: messages, each with its exchange and its routing key."""
        dispatcher = self._app.amqp._event_dispatcher  # noqa: SLF001 - the one that apply_async uses
        events = [self._event(dispatcher, message["headers"]) for message in messages]
        chunks = (events[start : start + _EVENTS_AT_ONCE] for start in range(0, len(events), _EVENTS_AT_ONCE))
        return [_pack_events(dispatcher, chunk) for chunk in chunks]

    def _event(self, dispatcher: Any, headers: Mapping[str, Any]) -> Any:
        return Event(
            "task-sent",
            hostname=dispatcher.hostname,
            utcoffset=0,
            pid=dispatcher.pid,
            clock=dispatcher.clock.forward(),
            uuid=headers["id"],
            root_id=headers["root_id"],
            parent_id=headers["parent_id"],
            name=TASK_NAME,
            args=headers["argsrepr"],
            kwargs=headers["kwargsrepr"],
            retries=headers["retries"],
            eta=headers["eta"],
            expires=headers["expires"],
            queue=self._queue,
            exchange="",
            routing_key=self._queue,
        )


def _make_encoder(
    serializer: str, embed: Mapping[str, Any]
) -> Callable[[dict[str, Any]], tuple[str, str, str | bytes]]:
    """Writes a delivery task's body in the form that this app's workers accept."""
    if serializer == "json":
        before, after = "[[", "],{}," + _to_json(embed) + "]"
        return lambda wire: ("application/json", "utf-8", before + _to_json(wire) + after)
    return lambda wire: serialization.dumps(((wire,), {}, embed), serializer)


def _pack_events(dispatcher: Any, events: Sequence[Any]) -> tuple[dict[str, Any], Any, str]:
    # A list under "task.multi" is how Celery's own dispatcher sends many events as one.
    several = len(events) > 1
    content_type, encoding, body = serialization.dumps(
        events if several else events[0], serializer=dispatcher.serializer
    )
    message = {
        "body": body,
        "content-encoding": encoding,
        "content-type": content_type,
        "headers": dict(dispatcher.headers or ()),
        "properties": {"delivery_mode": dispatcher.delivery_mode, "priority": 0, "delivery_info": {}},
    }
    return message, dispatcher.exchange, "task.multi" if several else "task.sent"
