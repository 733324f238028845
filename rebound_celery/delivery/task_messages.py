"""From a message to the Celery message of the task that delivers it, as `apply_async(eta=...)` would make it.

`apply_async` rebuilds for each call what is the same for all retries. Here that part is made once, from Celery's own
`app.amqp`, and only what differs is filled in; a test holds the result against what `apply_async` sends, field by
field. Where nobody asks for the message itself, that is filled into its stored form.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
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

#: What differs from one message to the next.
_HEADERS = ("id", "root_id", "parent_id", "argsrepr", "retries", "eta", KIND_HEADER)
_PROPERTIES = ("correlation_id", "reply_to", "priority")

#: Events that are sent as one at most.
_EVENTS_AT_ONCE = 1000

_to_json = json.JSONEncoder(separators=(",", ":")).encode
_quote: Callable[[str], str] = json.encoder.encode_basestring_ascii


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
    is_json: bool


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
        #: Of the schedule; see `Channel.template_of`.
        self._stencil: Any = None

    @property
    def are_seen(self) -> bool:
        """Whether somebody is to see the messages that `make` makes: who listens to Celery's signals, or a serializer
        other than JSON."""
        template = self._template or self._make_template()
        receivers = signals.before_task_publish.receivers or signals.after_task_publish.receivers
        return bool(receivers) or not template.is_json

    def entries(self, deliveries: Sequence[Delivery], channel: Any) -> Iterator[tuple[str, int, bytes]]:
        """Each delivery task as the schedule takes it: id, due time, and the stored form of its message.

        They are made one by one, when they are asked for, and without the messages: not for where `are_seen`.
        """
        template = self._template or self._make_template()
        if self._stencil is None:
            sample, *_ = self.make(deliveries[:1])
            self._stencil = channel.template_of(self._queue, sample, _HEADERS, _PROPERTIES)
        reply_to = _quote(self._app.thread_oid)
        for delivery, headers in zip(deliveries, self._headers(deliveries), strict=True):
            values = {name: _to_text(value) for name, value in headers.items()}
            values["correlation_id"], values["reply_to"] = values["id"], reply_to
            values["priority"] = str(delivery.priority)
            *_, body = template.encode(delivery.message.to_wire())
            yield delivery.task_id, delivery.due_ms, self._stencil.encode(values, body)

    def make(self, deliveries: Sequence[Delivery]) -> list[dict[str, Any]]:
        """A message for each delivery task, as kombu's channel takes it."""
        template, reply_to = self._template or self._make_template(), self._app.thread_oid
        return [
            self._make_one(delivery, headers, template, reply_to)
            for delivery, headers in zip(deliveries, self._headers(deliveries), strict=True)
        ]

    def _headers(self, deliveries: Sequence[Delivery]) -> Iterator[dict[str, Any]]:
        """The headers of each that differ: `_HEADERS`."""
        family: dict[str, Any] = {"parent_id": None}
        if (parent := self._app.current_worker_task) is not None:
            family = {"root_id": parent.request.root_id or parent.request.id, "parent_id": parent.request.id}
        now_ms = time.time_ns() // 1_000_000
        for delivery in deliveries:
            message, due_ms = delivery.message, delivery.due_ms
            yield {
                "id": delivery.task_id,
                "root_id": delivery.task_id,
                **family,
                "argsrepr": str(message),
                "retries": delivery.retries,
                "eta": datetime.fromtimestamp(due_ms / 1000, UTC).isoformat() if due_ms > now_ms else None,
                KIND_HEADER: message.target.kind,
            }

    def _make_one(
        self, delivery: Delivery, varying: Mapping[str, Any], template: _Template, reply_to: str
    ) -> dict[str, Any]:
        headers = {**template.headers, **varying}
        properties = {
            **template.properties,
            "correlation_id": delivery.task_id,
            "reply_to": reply_to,
            "priority": delivery.priority,
            "delivery_info": {},
        }
        wire = delivery.message.to_wire()
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
        task, serializer = self._app.tasks[TASK_NAME], self._app.conf.task_serializer
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
            encode=_make_encoder(serializer, embed),
            is_json=serializer == "json",
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

    def events(self, deliveries: Sequence[Delivery]) -> list[tuple[dict[str, Any], Any, str]]:
        """What tells those who watch, such as Flower: messages, each with its exchange and its routing key.

        None where the app's `task_send_sent_event` is off.
        """
        if not self._app.conf.task_send_sent_event:
            return []
        dispatcher = self._app.amqp._event_dispatcher  # noqa: SLF001 - the one that apply_async uses
        events = [self._event(dispatcher, headers) for headers in self._headers(deliveries)]
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
            kwargs="{}",
            retries=headers["retries"],
            eta=headers["eta"],
            expires=None,
            queue=self._queue,
            exchange="",
            routing_key=self._queue,
        )


def _to_text(value: str | int | None) -> str:
    """A header's value as JSON."""
    if value is None:
        return "null"
    return _quote(value) if isinstance(value, str) else str(value)


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
