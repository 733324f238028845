"""Publishing many messages at once: what waits is parked with one script call for each queue and priority.

And what takes the place of such a batch where only its commands are wanted.
"""

from __future__ import annotations

from typing import Any

from kombu.transport.redis import BatchPublishError, PublishBatch
from redis.exceptions import RedisError


class ScheduleBatch(PublishBatch):
    """A publish batch that also parks: one script call for each queue and priority."""

    def __init__(self, channel: Any, max_size: int) -> None:
        super().__init__(channel, max_size)
        self._enqueued: dict[tuple[str, int], list[tuple[str, int, bytes]]] = {}
        self._enqueued_count = 0

    def enqueue(self, queue: str, step: int, entry: tuple[str, int, bytes]) -> None:
        self._enqueued.setdefault((queue, step), []).append(entry)
        self._enqueued_count += 1
        if self._enqueued_count >= self.max_size:
            self._flush_enqueued()

    def _flush_enqueued(self) -> None:
        parked, self._enqueued, self._enqueued_count = self._enqueued, {}, 0
        try:
            for (queue, step), entries in parked.items():
                self.channel.store_of(queue).enqueue(entries, step)
        except (RedisError, OSError) as error:
            self._failed = error
            raise BatchPublishError("Redis publish batch failed; delivery is uncertain") from error

    def flush(self) -> None:
        self._check_usable()
        self._flush_enqueued()
        super().flush()

    def discard(self) -> None:
        self._enqueued, self._enqueued_count = {}, 0
        super().discard()


class CollectingBatch:
    """Stands for a publish batch of kombu's, and keeps the commands that it is given."""

    def __init__(self) -> None:
        self.commands: list[list[Any]] = []

    def add(self, name: str, *arguments: Any) -> None:
        self.commands.append([name.upper(), *arguments])
