"""Storing retries: each becomes the Celery message of a delivery task, as `apply_async(eta=...)` would send it.

`apply_async` rebuilds for each call what is the same for all retries. Here that part is made once, from Celery's own
`app.amqp`, and only what differs is filled in; a test holds the result against what `apply_async` sends, field by
field.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from celery import signals
from celery.events import Event
from kombu import Producer, serialization
from kombu.common import maybe_declare
from kombu.exceptions import KombuError
from kombu.utils.url import maybe_sanitize_url
from redis import Redis
from redis.exceptions import RedisError

from ..errors import NotStoredError, UnreachableError
from ..message import Message
from .strategy import KIND_HEADER

TASK_NAME = "rebound.deliver"

#: kombu's Redis priorities run from 0, the highest, to 9.
PRIORITY_HIGH = 0
PRIORITY_NORMAL = 3

#: Messages a pipeline sends at once; bounds the memory that their replies and buffers take.
_BATCH_SIZE = 1000

#: Seconds. Without them a lost network would hold the caller for ever: kombu's default is no time-out.
_SOCKET_TIMEOUTS = {"socket_timeout": 10.0, "socket_connect_timeout": 5.0}

_FAULTS = (KombuError, RedisError, OSError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """A delivery task to store: its message, when it is due (Unix milliseconds; what has passed means at once), its id,
    how often it was retried, and its priority."""

    message: Message
    due_ms: int
    task_id: str
    retries: int = 0
    priority: int = PRIORITY_NORMAL


class Publisher:
    """Publishes delivery tasks over connections of its own to the app's broker; safe for threads and forks.

    Args:
        app: the Celery app. Nothing is read from it before the first use.
        queue: the name of the queue that rebound's workers consume.
    """

    def __init__(self, app: Any, queue: str) -> None:
        self._app = app
        self._queue = queue
        self._idle: deque[Producer] = deque()
        self._event_batches: WeakKeyDictionary[Producer, Any] = WeakKeyDictionary()
        self._pid: int | None = None
        self._template: dict[str, Any] | None = None

    def publish(self, retries: Sequence[tuple[Message, int]], *, priority: int = PRIORITY_NORMAL) -> None:
        """Store messages, each with its due time in Unix milliseconds; returns once Redis has all of them.

        A due time that has passed means at once.

        Raises:
            NotStoredError: if Redis is away or refuses; any of them may be stored.
        """
        self.publish_tasks([Task(message, due_ms, message.task_id, priority=priority) for message, due_ms in retries])

    def publish_tasks(self, tasks: Sequence[Task]) -> None:
        """Store tasks as they are, also such as exist already and go on; see `publish`."""
        if not tasks:
            return
        try:
            with self._producer() as producer:
                self._publish(producer, tasks)
        except _FAULTS as error:
            raise NotStoredError(f"Redis at {self.address} did not take the retry: {error}") from error

    def check(self) -> None:
        """Ask Redis for an answer.

        Raises:
            UnreachableError: with the address that was tried.
        """
        try:
            with self.open_redis() as (redis, _prefix):
                redis.ping()
        except _FAULTS as error:
            raise UnreachableError("Redis", self.address, error) from error

    @property
    def address(self) -> str:
        """The broker's URL without its password."""
        return str(maybe_sanitize_url(self._app.conf.broker_write_url or "memory://"))

    @contextmanager
    def open_redis(self) -> Iterator[tuple[Any, str]]:
        """The broker's Redis: a client that adds no prefix by itself, and the prefix that the app's keys have."""
        with self._producer() as producer:
            channel = producer.channel
            if not hasattr(channel, "pool"):
                raise UnreachableError("Redis", self.address, "the app's broker is not Redis")
            yield Redis(connection_pool=channel.pool), getattr(channel, "global_keyprefix", "")

    @contextmanager
    def _producer(self) -> Iterator[Producer]:
        """A producer that no other thread uses meanwhile. One that failed is closed, not used again."""
        if self._pid != os.getpid():
            # Sockets opened before a fork belong to the parent.
            self._idle, self._pid = deque(), os.getpid()
        try:
            producer = self._idle.pop()
        except IndexError:
            producer = self._connect()
        try:
            yield producer
        except BaseException:
            producer.connection.close()
            raise
        self._idle.append(producer)

    def _connect(self) -> Producer:
        options = {**_SOCKET_TIMEOUTS, **(self._app.conf.broker_transport_options or {})}
        connection = self._app.connection_for_write(transport_options=options)
        return Producer(connection.default_channel, auto_declare=False)

    def _publish(self, producer: Producer, tasks: Sequence[Task]) -> None:
        channel = producer.channel
        now_ms = time.time_ns() // 1_000_000
        prepared = [self._prepare(task, now_ms) for task in tasks]
        sends_events = self._app.conf.task_send_sent_event
        if len(prepared) == 1 and sends_events and hasattr(channel, "publish_with_event"):
            event, exchange, routing_key = self._event_message(self._events(prepared))
            maybe_declare(exchange, channel)
            channel.publish_with_event(prepared[0], self._queue, event, exchange.name, routing_key)
            sends_events = False
        elif len(prepared) > 1 and hasattr(channel, "create_publish_batch"):
            batch = channel.create_publish_batch(_BATCH_SIZE)
            try:
                for payload in prepared:
                    batch.publish(payload, exchange="", routing_key=self._queue)
                batch.flush()
            finally:
                batch.close()
        else:
            for payload in prepared:
                channel.basic_publish(payload, exchange="", routing_key=self._queue)
        self._send_signals(prepared)
        if sends_events:
            self._send_events(producer, prepared)

    def _prepare(self, task: Task, now_ms: int) -> dict[str, Any]:
        """The message as kombu's channel takes it."""
        template = self._template or self._make_template()
        message, task_id = task.message, task.task_id
        headers = dict(template["headers"])
        headers.update(id=task_id, root_id=task_id, argsrepr=str(message), retries=task.retries)
        headers[KIND_HEADER] = message.target.kind
        if task.due_ms > now_ms:
            headers["eta"] = datetime.fromtimestamp(task.due_ms / 1000, UTC).isoformat()
        parent = self._app.current_worker_task
        if parent is not None:
            headers["root_id"] = parent.request.root_id or parent.request.id
            headers["parent_id"] = parent.request.id
        properties = {
            **template["properties"],
            "correlation_id": task_id,
            "reply_to": self._app.thread_oid,
            "priority": task.priority,
            "delivery_info": {},
        }
        body: Any = ((message.to_wire(),), {}, template["embed"])
        if signals.before_task_publish.receivers:
            # Tracing instruments add their context here.
            signals.before_task_publish.send(
                sender=TASK_NAME,
                body=body,
                exchange="",
                routing_key=self._queue,
                declare=[],
                headers=headers,
                properties=properties,
                retry_policy={},
            )
        content_type, content_encoding, encoded = self._encode(body)
        return {
            "body": encoded,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": properties,
        }

    def _encode(self, body: Any) -> tuple[str, str, str | bytes]:
        """A body in the form that this app's workers accept."""
        serializer = self._app.conf.task_serializer
        if serializer == "json":
            return "application/json", "utf-8", json.dumps(body)
        content_type, content_encoding, encoded = serialization.dumps(body, serializer)
        return content_type, content_encoding, encoded

    def _make_template(self) -> dict[str, Any]:
        task = self._app.tasks[TASK_NAME]
        headers, properties, body, _event = self._app.amqp.as_task_v2(
            "",
            TASK_NAME,
            args=(),
            kwargs={},
            time_limit=task.time_limit,
            soft_time_limit=task.soft_time_limit,
            ignore_result=task.ignore_result,
        )
        headers["kwargsrepr"] = "{}"
        properties = {**properties, "delivery_mode": 2}
        self._template = {"headers": headers, "properties": properties, "embed": body[2]}
        return self._template

    def _send_signals(self, prepared: Sequence[dict[str, Any]]) -> None:
        if not signals.after_task_publish.receivers:
            return
        for payload in prepared:
            signals.after_task_publish.send(
                sender=TASK_NAME,
                body=payload["body"],
                headers=payload["headers"],
                exchange="",
                routing_key=self._queue,
            )

    def _send_events(self, producer: Producer, prepared: Sequence[dict[str, Any]]) -> None:
        """Tell those who watch, such as Flower, what was stored. It is stored by now, whatever fails here."""
        events = self._events(prepared)
        try:
            for start in range(0, len(events), _BATCH_SIZE):
                message, exchange, routing_key = self._event_message(events[start : start + _BATCH_SIZE])
                batch = self._event_batch(producer, exchange)
                batch.publish(message, exchange=exchange.name, routing_key=routing_key)
                batch.flush()
        except _FAULTS as error:
            # A batch that failed once takes nothing more.
            self._event_batches.pop(producer, None)
            logger.debug("task-sent events were not sent: %s", error)

    def _events(self, prepared: Sequence[dict[str, Any]]) -> list[Any]:
        dispatcher = self._app.amqp._event_dispatcher  # noqa: SLF001 - the one that apply_async uses
        return [
            Event(
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
            for headers in (payload["headers"] for payload in prepared)
        ]

    def _event_message(self, events: Sequence[Any]) -> tuple[dict[str, Any], Any, str]:
        """Events as one message, with its exchange and routing key."""
        dispatcher = self._app.amqp._event_dispatcher  # noqa: SLF001
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

    def _event_batch(self, producer: Producer, exchange: Any) -> Any:
        """What sends events over this producer's channel. It is kept: else kombu makes a new Redis client for each
        event, which costs more than storing the task."""
        batch = self._event_batches.get(producer)
        if batch is None:
            channel = producer.channel
            maybe_declare(exchange, channel)
            make = getattr(channel, "create_publish_batch", None)
            batch = self._event_batches[producer] = _Unbatched(channel) if make is None else make(_BATCH_SIZE)
        return batch


class _Unbatched:
    """Stands for a publish batch where the broker has none, such as kombu's memory transport."""

    def __init__(self, channel: Any) -> None:
        self.publish = channel.basic_publish

    def flush(self) -> None:
        """All is sent."""
