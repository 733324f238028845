"""The `task-sent` events of many deliveries as one message: Celery's own publishing sends a message for each task."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

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

#: Celery's routing keys for a message of one event, and for a message of a list of events.
_ONE, _SEVERAL = "task.sent", "task.multi"

#: Stand for the parts of a Redis command that differ from one message of events to the next.
_BODY_MARK = "rebound-body"

_to_json = msgspec.json.Encoder().encode


class _SentEvent(msgspec.Struct, gc=False):
    """The event of one delivery, as Celery's dispatcher makes it. msgspec makes and writes it faster than a dict."""

    type: str
    timestamp: float
    hostname: str
    utcoffset: int
    pid: int
    name: str
    kwargs: str
    expires: str | None
    queue: str
    exchange: str
    routing_key: str
    clock: int
    uuid: str
    root_id: str
    parent_id: str | None
    args: str
    retries: int
    eta: str | None


class _Command(NamedTuple):
    """The Redis command that publishes a message of events: its name, its topic, and the parts of its payload."""

    name: Any
    topic: Any
    before_body: bytes
    before_tag: bytes
    after_tag: bytes


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
        #: Routing key -> the command that publishes a message of events; see `_split`.
        self._commands: dict[str, _Command] = {}

    def commands(self, schedule: Schedule, deliveries: Sequence[Delivery]) -> list[list[Any]]:
        """The Redis commands that publish the events of these deliveries."""
        if self._serializer != "json":
            return schedule.publish_commands(self.messages(deliveries))
        made = []
        for events in self._made(deliveries):
            several = len(events) > 1
            routing_key = _SEVERAL if several else _ONE
            command = self._commands.get(routing_key)
            if command is None:
                command = self._commands[routing_key] = self._split(schedule, routing_key)
            name, topic, before_body, before_tag, after_tag = command
            body = base64.b64encode(_to_json(events if several else events[0]))
            made.append([name, topic, b"".join((before_body, body, before_tag, new_id().encode(), after_tag))])
        return made

    def messages(self, deliveries: Sequence[Delivery]) -> list[tuple[dict[str, Any], Any, str]]:
        """The messages that tell of these deliveries, each with its exchange and its routing key."""
        return [self._message(events) for events in self._made(deliveries)]

    def _made(self, deliveries: Sequence[Delivery]) -> Iterator[list[_SentEvent]]:
        """The events of the deliveries, in lists that one message may hold."""
        for start in range(0, len(deliveries), _AT_ONCE):
            yield self._events_of(deliveries[start : start + _AT_ONCE])

    def _events_of(self, deliveries: Sequence[Delivery]) -> list[_SentEvent]:
        dispatcher, queue, now_ms = self._dispatcher, self._queue(), self._clock.now_ms()
        clock, hostname, pid = dispatcher.clock, dispatcher.hostname, dispatcher.pid
        timestamp, offset = now_ms / 1000, utcoffset()
        first_clock = clock.forward()
        if len(deliveries) > 1:
            # One call for all of them. `adjust` sets the clock to one more than the number it is given.
            clock.adjust(first_clock + len(deliveries) - 2)
        return [
            # Arguments by position, because this runs for every delivery.
            _SentEvent(
                "task-sent",
                timestamp,
                hostname,
                offset,
                pid,
                TASK_NAME,
                "{}",
                None,
                queue,
                "",
                queue,
                number,
                delivery.task_id,
                delivery.root_id or delivery.task_id,
                delivery.parent_id,
                str(delivery.message),
                delivery.tries,
                eta_of(delivery) if delivery.due_ms > now_ms else None,
            )
            for number, delivery in enumerate(deliveries, first_clock)
        ]

    def _message(self, events: Sequence[_SentEvent]) -> tuple[dict[str, Any], Any, str]:
        # A list under "task.multi" is how Celery's own dispatcher sends many events as one message.
        several = len(events) > 1
        body: str | bytes
        if self._serializer == "json":
            content_type, encoding = "application/json", "utf-8"
            body = _to_json(events if several else events[0]).decode()
        else:
            content = [msgspec.structs.asdict(event) for event in events]
            content_type, encoding, body = serialization.dumps(
                content if several else content[0], serializer=self._serializer
            )
        return self._wrap(content_type, encoding, body, _SEVERAL if several else _ONE)

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

    def _split(self, schedule: Schedule, routing_key: str) -> _Command:
        """The command that publishes a message of events, without its body and its delivery tag.

        kombu makes all of it anew for each message, which costs more than storing the delivery.
        """
        sample = self._wrap("application/json", "utf-8", _BODY_MARK, routing_key)
        ((name, topic, payload),) = schedule.publish_commands([sample])
        text = payload.encode() if isinstance(payload, str) else payload
        tag = json.loads(text)["properties"]["delivery_tag"].encode()
        start, body, rest = text.partition(base64.b64encode(_BODY_MARK.encode()))
        middle, tag, end = rest.partition(tag)
        if not (body and tag):
            raise ValueError(f"kombu publishes events in a form that is not known here: {text!r}")
        return _Command(name, topic, start, middle, end)

    @cached_property
    def _serializer(self) -> str:
        return str(self._dispatcher.serializer)

    @cached_property
    def _dispatcher(self) -> Any:
        return self._app.amqp._event_dispatcher  # noqa: SLF001 - of celery: apply_async uses it
