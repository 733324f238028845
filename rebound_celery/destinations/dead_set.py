"""The dead set: dead letters kept in Redis that have no other place to go. It is never trimmed by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..errors import WireFormatError
from ..message import Message
from . import Delivered, Outcome, Unavailable

#: A hash: message id -> the message as JSON with the time it died.
_LETTERS = "{rebound}.dead"
#: A sorted set: message id scored by the time it died, in Unix milliseconds.
_INDEX = "{rebound}.dead.index"

#: Opens the broker's Redis: yields a client, and the prefix that all keys of this app have.
OpenRedis = Callable[[], AbstractContextManager[tuple[Any, str]]]


class DeadSet:
    """Dead letters in the broker's Redis, listed from the oldest.

    Args:
        open_redis: opens the broker's Redis.
    """

    def __init__(self, open_redis: OpenRedis) -> None:
        self._open = open_redis

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        now_ms = time.time_ns() // 1_000_000
        letters = {m.id: json.dumps({"died_at": now_ms, "message": m.to_wire()}) for m in messages}
        try:
            self._write(letters, now_ms)
        except Exception as error:  # noqa: BLE001 - Redis is away or refuses: the messages stay in the schedule
            return [Unavailable(f"the dead set in Redis: {error}") for _ in messages]
        return [Delivered(f"dead-set {message.id}") for message in messages]

    def keep_unreadable(self, task_id: str, wire: object) -> None:
        """Keep what no worker of this version can read; raises whatever Redis raises."""
        now_ms = time.time_ns() // 1_000_000
        letter = json.dumps({"died_at": now_ms, "unreadable": wire}, default=repr)
        self._write({f"unreadable:{task_id}".encode("utf-8", "backslashreplace"): letter}, now_ms)

    def _write(self, letters: Mapping[Any, str], now_ms: int) -> None:
        with self._open() as (redis, prefix), redis.pipeline(transaction=True) as pipe:
            pipe.hset(prefix + _LETTERS, mapping=letters)
            pipe.zadd(prefix + _INDEX, dict.fromkeys(letters, now_ms))
            pipe.execute()

    def __len__(self) -> int:
        with self._open() as (redis, prefix):
            return int(redis.hlen(prefix + _LETTERS))

    def __iter__(self) -> Iterator[Message]:
        """The readable dead letters, the oldest first."""
        with self._open() as (redis, prefix):
            for identity in redis.zrange(prefix + _INDEX, 0, -1):
                stored = redis.hget(prefix + _LETTERS, identity)
                try:
                    yield Message.from_wire(json.loads(stored)["message"])
                except (TypeError, ValueError, KeyError, RecursionError, WireFormatError):
                    continue

    def remove(self, *ids: str) -> int:
        """Remove dead letters by their message ids; returns how many there were."""
        if not ids:
            return 0
        with self._open() as (redis, prefix), redis.pipeline(transaction=True) as pipe:
            pipe.hdel(prefix + _LETTERS, *ids)
            pipe.zrem(prefix + _INDEX, *ids)
            return int(pipe.execute()[0])

    def close(self) -> None:
        """Nothing to give back: connections belong to the app's pool."""
