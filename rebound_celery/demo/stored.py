"""What waits in the demo's Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from ..errors import UnknownVersionError, UnreachableError, WireFormatError
from ..message import codec, message_id_of
from ..schedule.port import Schedule, Waiting, open_schedule
from .app import make_app


def check(url: str) -> None:
    """Raise UnreachableError if Redis does not answer."""
    with Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as redis:
        try:
            redis.ping()
        except RedisError as error:
            raise UnreachableError("Redis", _address(redis), error) from error


def waiting(url: str, queue: str) -> set[str]:
    """The ids (the demo's own, from their values) of all messages that wait to be delivered, or are being delivered.

    Raises:
        UnreachableError: if Redis does not answer.
    """
    app = make_app(url, queue=queue)
    try:
        with open_schedule(app, queue) as schedule:
            ids = {_id_of(entry) for entry in _entries(schedule)}
    except (RedisError, OSError) as error:
        raise UnreachableError("Redis", url, error) from error
    return {message_id for message_id in ids if message_id is not None}


def _entries(schedule: Schedule) -> Iterator[Waiting]:
    """All messages that wait, and then all that workers hold."""
    for leased in (False, True):
        after = None
        while True:
            page = schedule.page(after=after, count=1000, leased=leased)
            yield from page.entries
            after = page.next
            if after is None:
                break


def forget(url: str, queue: str) -> None:
    """Delete every key that is named after the queue, with all that waits there: nobody would ever deliver it."""
    with Redis.from_url(url, socket_timeout=30) as redis:
        try:
            for key in redis.scan_iter(match=f"*{queue}*", count=1000):
                redis.delete(key)
        except RedisError as error:
            raise UnreachableError("Redis", _address(redis), error) from error


def _id_of(entry: Waiting) -> str | None:
    """The demo's own id of a message, from its value."""
    try:
        message, _ = codec.decode(message_id_of(entry.id), entry.stored)
        return str(json.loads(message.value or b"")["id"])
    except (WireFormatError, UnknownVersionError, ValueError, KeyError, TypeError):
        return None


def _address(redis: Any) -> str:
    connection = redis.connection_pool.connection_kwargs
    return f"{connection.get('host', 'localhost')}:{connection.get('port', 6379)}"
