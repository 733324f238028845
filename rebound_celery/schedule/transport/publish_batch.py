"""Publishing many messages at once: those that wait are stored with one script call for each queue.

And a batch that only collects the commands, for callers that send them themselves.
"""

from __future__ import annotations

from typing import Any

from kombu.transport.redis import BatchPublishError, PublishBatch
from redis.exceptions import RedisError

from ..store.values import Entry


class ScheduleBatch(PublishBatch):
    """A publish batch that also stores messages in the schedule: one script call for each queue."""

    def __init__(self, channel: Any, max_size: int) -> None:
        super().__init__(channel, max_size)
        #: (Queue, whether an id that is stored already is kept) -> messages.
        self._enqueued: dict[tuple[str, bool], list[Entry]] = {}
        self._enqueued_count = 0

    def enqueue(self, queue: str, entry: Entry, *, keep: bool = False) -> None:
        """Store a message of this queue with the next flush; with `keep`, only if its id is new."""
        self._enqueued.setdefault((queue, keep), []).append(entry)
        self._enqueued_count += 1
        if self._enqueued_count >= self.max_size:
            self._flush_enqueued()

    def _flush_enqueued(self) -> None:
        enqueued, self._enqueued, self._enqueued_count = self._enqueued, {}, 0
        try:
            for (queue, keep), entries in enqueued.items():
                self.channel.store_of(queue).enqueue(entries, keep=keep)
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
    """Takes the place of a publish batch of kombu's, and keeps the commands that it is given."""

    def __init__(self) -> None:
        self.commands: list[list[Any]] = []

    def add(self, name: str, *arguments: Any) -> None:
        self.commands.append([name.upper(), *arguments])
