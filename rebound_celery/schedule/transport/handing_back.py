"""Puts waiting Celery tasks on the ordinary list of their queue, for workers without the schedule."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from kombu.transport import redis as kombu_redis

from ...errors import UnreachableError
from ..store.values import Waiting
from . import celery_form
from .channel import Channel


def put_on_list(app: Any, queue: str, entries: Sequence[Waiting], now_ms: int) -> None:
    """See `schedule.port.put_on_list`."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        if not isinstance(channel, Channel):
            raise UnreachableError("Redis", str(app.main), "the app's broker is not Redis, or the app has no schedule")
        for entry in entries:
            message = celery_form.decode(entry.stored)
            message["properties"]["delivery_tag"] = str(uuid4())
            if entry.due_ms > now_ms:
                # It may have been rescheduled since it was sent.
                message["headers"]["eta"] = datetime.fromtimestamp(entry.due_ms / 1000, UTC).isoformat()
            # Not the channel's own, which would store it in the schedule again.
            kombu_redis.Channel._put(channel, queue, message)  # noqa: SLF001 - of kombu
