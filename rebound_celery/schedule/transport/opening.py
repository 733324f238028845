"""The schedule of a queue for callers that are no worker: over a connection of their own to the app's broker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

from kombu.common import maybe_declare
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...broker import shown_broker
from ...errors import UnreachableError
from ...stopping import is_stopping
from ..store.store import Store
from .channel import Channel
from .publish_batch import CollectingBatch
from .refusals import Parser

#: Seconds after which a caller hears that Redis is away; the default of Celery's `broker_connection_timeout`.
_CONNECT_S = 4.0


@contextmanager
def open_schedule(app: Any, queue: str, connect_s: float | None = None) -> Iterator[ChannelSchedule]:
    """See `schedule.port.open_schedule`."""
    options: dict[str, Any] = {"errback": _give_up, "callback": _give_up}
    if connect_s is not None:
        options["connect_retries_timeout"] = connect_s
    elif app.conf.broker_connection_timeout is None:
        # Celery's worker sets it so where it has no event loop (gevent, eventlet), and kombu would try for ever.
        options["connect_retries_timeout"] = _CONNECT_S
    options |= app.conf.broker_transport_options or {}
    with app.connection_for_write(transport_options=options) as connection:
        channel = connection.default_channel
        if not isinstance(channel, Channel):
            raise UnreachableError(
                "Redis", shown_broker(app), "the app's broker is not Redis, or the app has no schedule"
            )
        client = Redis(connection_pool=channel.pool, single_connection_client=True)
        try:
            yield ChannelSchedule(client, channel, queue)
        finally:
            client.close()


def _give_up(error: BaseException | None = None, *_: Any) -> None:
    """Do not try again to connect to a Redis that answers nothing, once the worker stops.

    kombu calls this after each try, and each second until the next one.
    """
    if is_stopping() and Parser.is_silent:
        raise error or RedisTimeoutError("Redis answers nothing, and the worker is stopping")


class ChannelSchedule(Store):
    """The schedule of a queue, with a channel of kombu's that publishes.

    Args:
        client: a redis-py client with one connection of its own.
        channel: a channel to the same Redis.
        queue: the queue's name.
    """

    def __init__(self, client: Any, channel: Channel, queue: str) -> None:
        super().__init__(client, channel.keys_of(queue))
        self._channel = channel
        #: The exchanges that are declared; kombu looks at length each time.
        self._declared: WeakSet[Any] = WeakSet()

    def publish_commands(self, messages: Sequence[tuple[dict[str, Any], Any, str]]) -> list[list[Any]]:
        channel = self._channel
        collected = CollectingBatch()
        for message, exchange, routing_key in messages:
            if exchange not in self._declared:
                maybe_declare(exchange, channel)
                self._declared.add(exchange)
            channel.basic_publish(message, exchange=exchange.name, routing_key=routing_key, _publish_batch=collected)
        if not channel.global_keyprefix:
            return collected.commands
        return [channel.client._prefix_args(command) for command in collected.commands]  # noqa: SLF001 - of kombu
