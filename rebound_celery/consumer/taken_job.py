"""The messages of a chain that this consumer has taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..message import Message, Origin, Record
from .blocked_keys import Key
from .partition_tracker import Job, Partition, TakenTracker


class TakenJob(Job):
    """Messages of one chain that this consumer has to handle, in their order."""

    __slots__ = ("key", "messages", "records", "want")

    def __init__(
        self, key: Key, records: Sequence[Record], messages: Sequence[Message], tracker: TakenTracker, want: int
    ) -> None:
        super().__init__(records[0], tracker)
        self.key = key
        self.records = records
        self.messages = messages
        self.want = want
        # Two jobs of one chain are never handled at the same time.
        self.queue_key = (Partition("", key[0].partition), repr(key).encode())


def record_of(message: Message) -> Record:
    """Return the record of a message that was behind a head. It has the position at which it was first read."""
    origin: Any = message.origin or Origin("", 0, 0, 0)
    return Record(
        origin.topic,
        origin.partition,
        origin.offset,
        origin.timestamp,
        message.key,
        message.value,
        message.headers,
        message.id,
        origin,
        message.attempt,
        message.first_failed_at,
        None if message.attempt == 1 else message.group,
        message.history,
        previous_span=message.previous_span,
    )
