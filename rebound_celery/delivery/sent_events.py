"""The `task-sent` events of many deliveries as one message: Celery's own publishing sends a message for each task."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import msgspec
from celery.utils.time import utcoffset
from kombu import serialization

from ..celery_conf import LiveSetting
from ..clock import Clock
from ..message import new_id
from ..schedule.port import Schedule
from .delivery import Delivery
from .form import TASK_NAME, eta_of

#: How many events a message holds at most.
_AT_ONCE = 1000

#: Stand for the parts of a Redis command that differ from one message of events to the next.
_BODY_MARK = "rebound-body"

_to_json = msgspec.json.Encoder().encode


class SentEvents:
    """Makes the messages that tell those who watch, such as Flower, which deliveries were stored.

    Args:
        app: the Celery app. Nothing is read from it before the first use.
        queue: tells the name of the queue that rebound's workers consume.
        clock: tells the time.
    """

    def __init__(self, app: Any, queue: Callable[[], str], clock: Clock) -> None:
        self._app = app
        self._queue = queue
        self._clock = clock
        #: Whether the app sends such events.
        self.are_wanted = LiveSetting(app, "task_send_sent_event")
        #: The parts of the Redis command that publishes a message of one event; see `_split`.
        self._command: tuple[str, str, str, str, str] | None = None

    def commands(self, schedule: Schedule, deliveries: Sequence[Delivery]) -> list[list[Any]]:
        """The Redis commands that publish the events of these deliveries."""
        if len(deliveries) == 1 and self._serializer == "json":
            if self._command is None:
                self._command = self._split(schedule)
            name, topic, start, middle, end = self._command
            (event,) = self._made(deliveries)
            body = base64.b64encode(_to_json(event)).decode()
            return [[name, topic, f"{start}{body}{middle}{new_id()}{end}"]]
        return schedule.publish_commands(self.messages(deliveries))

    def messages(self, deliveries: Sequence[Delivery]) -> list[tuple[dict[str, Any], Any, str]]:
        """The messages that tell of these deliveries, each with its exchange and its routing key."""
        events = self._made(deliveries)
        chunks = (events[start : start + _AT_ONCE] for start in range(0, len(events), _AT_ONCE))
        return [self._message(chunk) for chunk in chunks]

    def _made(self, deliveries: Sequence[Delivery]) -> list[dict[str, Any]]:
        """The event of each delivery."""
        dispatcher, queue, now_ms = self._dispatcher, self._queue(), self._clock.now_ms()
        forward = dispatcher.clock.forward
        same = {
            "type": "task-sent",
            "timestamp": now_ms / 1000,
            "hostname": dispatcher.hostname,
            "utcoffset": utcoffset(),
            "pid": dispatcher.pid,
            "name": TASK_NAME,
            "kwargs": "{}",
            "expires": None,
            "queue": queue,
            "exchange": "",
            "routing_key": queue,
        }
        return [
            {
                **same,
                "clock": forward(),
                "uuid": delivery.task_id,
                "root_id": delivery.root_id or delivery.task_id,
                "parent_id": delivery.parent_id,
                "args": str(delivery.message),
                "retries": delivery.tries,
                "eta": eta_of(delivery) if delivery.due_ms > now_ms else None,
            }
            for delivery in deliveries
        ]

    def _message(self, events: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], Any, str]:
        # A list under "task.multi" is how Celery's own dispatcher sends many events as one message.
        several = len(events) > 1
        content = events if several else events[0]
        body: str | bytes
        if self._serializer == "json":
            content_type, encoding, body = "application/json", "utf-8", _to_json(content).decode()
        else:
            content_type, encoding, body = serialization.dumps(content, serializer=self._serializer)
        return self._wrap(content_type, encoding, body, "task.multi" if several else "task.sent")

    def _wrap(
        self, content_type: str, encoding: str, body: str | bytes, routing_key: str
    ) -> tuple[dict[str, Any], Any, str]:
        dispatcher = self._dispatcher
        message = {
            "body": body,
            "content-encoding": encoding,
            "content-type": content_type,
            "headers": dict(dispatcher.headers or ()),
            "properties": {"delivery_mode": dispatcher.delivery_mode, "priority": 0, "delivery_info": {}},
        }
        return message, dispatcher.exchange, routing_key

    def _split(self, schedule: Schedule) -> tuple[str, str, str, str, str]:
        """The command that publishes a message of one event: its name, its topic, and the payload around its body and
        its delivery tag. kombu makes all of it anew for each message, which costs more than storing the delivery."""
        sample = self._wrap("application/json", "utf-8", _BODY_MARK, "task.sent")
        ((name, topic, payload),) = schedule.publish_commands([sample])
        text = payload if isinstance(payload, str) else payload.decode()
        tag = json.loads(text)["properties"]["delivery_tag"]
        start, body, rest = text.partition(base64.b64encode(_BODY_MARK.encode()).decode())
        middle, tag, end = rest.partition(tag)
        if not (body and tag):
            raise ValueError(f"kombu publishes events in a form that is not known here: {text}")
        return name, topic, start, middle, end

    @cached_property
    def _serializer(self) -> str:
        return str(self._dispatcher.serializer)

    @cached_property
    def _dispatcher(self) -> Any:
        return self._app.amqp._event_dispatcher  # noqa: SLF001 - of celery: apply_async uses it
