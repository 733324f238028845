"""Storing retries: connections to the app's broker, and the delivery tasks and their events that go over them."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakSet

from kombu import Producer
from kombu.common import maybe_declare
from kombu.exceptions import KombuError
from kombu.utils.url import maybe_sanitize_url
from redis import Redis
from redis.exceptions import RedisError

from ..errors import NotStoredError, UnreachableError
from ..message import Message
from .task_messages import PRIORITY_NORMAL, Delivery, TaskMessages

#: Seconds. Without them a lost network would hold the caller for ever: kombu's default is no time-out.
_SOCKET_TIMEOUTS = {"socket_timeout": 10.0, "socket_connect_timeout": 5.0}

_FAULTS = (KombuError, RedisError, OSError)

logger = logging.getLogger(__name__)


class Publisher:
    """Publishes delivery tasks over connections of its own to the app's broker; safe for threads and forks.

    Args:
        app: the Celery app. Nothing is read from it before the first use.
        queue: the name of the queue that rebound's workers consume.
    """

    def __init__(self, app: Any, queue: str) -> None:
        self._app = app
        self._queue = queue
        self._messages = TaskMessages(app, queue)
        self._idle: deque[Producer] = deque()
        #: The channels over which the exchange of the events is declared; kombu looks at length each time.
        self._declared: WeakSet[Any] = WeakSet()
        self._pid: int | None = None

    def publish(self, retries: Sequence[tuple[Message, int]], *, priority: int = PRIORITY_NORMAL) -> None:
        """Store messages, each with its due time in Unix milliseconds; returns once Redis has all of them.

        A due time that has passed means at once.

        Raises:
            NotStoredError: if Redis is away or refuses; any of them may be stored.
        """
        self.publish_tasks(
            [Delivery(message, due_ms, message.task_id, priority=priority) for message, due_ms in retries]
        )

    def publish_tasks(self, deliveries: Sequence[Delivery]) -> None:
        """Store tasks as they are, also such as exist already and go on; see `publish`."""
        if not deliveries:
            return
        try:
            with self._producer() as producer:
                self._publish(producer, deliveries)
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

    def _publish(self, producer: Producer, deliveries: Sequence[Delivery]) -> None:
        channel = producer.channel
        events = self._messages.events(deliveries)
        if events and channel not in self._declared:
            maybe_declare(events[0][1], channel)
            self._declared.add(channel)
        if hasattr(channel, "schedule"):
            self._schedule(channel, deliveries, [(event, exchange.name, key) for event, exchange, key in events])
            return
        # A broker without the schedule, such as kombu's memory transport.
        messages = self._messages.make(deliveries)
        for message in messages:
            channel.basic_publish(message, exchange="", routing_key=self._queue)
        self._messages.tell(messages)
        with suppress(*_FAULTS):  # what the events tell of is stored by now
            for event, exchange, key in events:
                channel.basic_publish(event, exchange=exchange.name, routing_key=key)

    def _schedule(self, channel: Any, deliveries: Sequence[Delivery], events: Sequence[Any]) -> None:
        by_priority: dict[int, list[Delivery]] = {}
        for delivery in deliveries:
            by_priority.setdefault(delivery.priority, []).append(delivery)
        *_, last = by_priority
        for priority, group in by_priority.items():
            messages: list[dict[str, Any]] = []
            entries: Iterable[tuple[str, int, bytes]]
            if self._messages.are_seen:
                messages = self._messages.make(group)
                entries = (
                    (message["headers"]["id"], one.due_ms, channel.form_of(self._queue, message))
                    for one, message in zip(group, messages, strict=True)
                )
            else:
                entries = self._messages.entries(group, channel)
            # The events follow what they tell of.
            channel.schedule(self._queue, priority, entries, events if priority == last else [])
            self._messages.tell(messages)
