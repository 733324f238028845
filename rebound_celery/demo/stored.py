"""What waits in Redis; the only place of the demo that knows how Celery's messages lie there."""

from __future__ import annotations

import json
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from ..errors import UnreachableError, WireFormatError
from ..message import Message
from ..schedule.store import envelope
from ..schedule.store.keys import QueueKeys
from ..schedule.transport import celery_form


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
    with Redis.from_url(url, socket_timeout=30) as redis:
        try:
            entries: list[Any] = redis.hvals(QueueKeys("", queue, ()).messages)
        except RedisError as error:
            raise UnreachableError("Redis", _address(redis), error) from error
    ids = (_message_id(celery_form.decode(envelope.opened(entry)[0])) for entry in entries)
    return {message_id for message_id in ids if message_id is not None}


def forget(url: str, queue: str) -> None:
    """Delete every key that is named after the queue, with all that waits there: nobody would ever deliver it."""
    with Redis.from_url(url, socket_timeout=30) as redis:
        try:
            for key in redis.scan_iter(match=f"*{queue}*", count=1000):
                redis.delete(key)
        except RedisError as error:
            raise UnreachableError("Redis", _address(redis), error) from error


def _message_id(payload: dict[str, Any]) -> str | None:
    (wire,), *_ = json.loads(payload["body"])
    try:
        return str(json.loads(Message.from_wire(wire).value or b"")["id"])
    except (WireFormatError, ValueError, KeyError, TypeError):
        return None


def _address(redis: Any) -> str:
    connection = redis.connection_pool.connection_kwargs
    return f"{connection.get('host', 'localhost')}:{connection.get('port', 6379)}"
