"""The record as the consumer reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .history import History

#: Pairs of name and value in their order. Kafka allows repeated names and values that are null.
Headers = tuple[tuple[str, bytes | None], ...]


class Origin(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Where a message was first read: topic, partition, offset, and the record's timestamp in Unix milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Record(msgspec.Struct, frozen=True, gc=False):
    """A Kafka record as the handler gets it: the fields of kafka-python's ConsumerRecord, and which attempt this is.

    Attributes:
        topic, partition, offset: where this record was read.
        timestamp: Unix milliseconds, as the record carries it.
        key, value: the bytes as produced; None where the record has none.
        headers: pairs of name and bytes in their order, without those that rebound adds.
        attempt: which try of the processing this is; 1 is the first.
        id: the same over all attempts of one message, so that a handler can drop duplicates by it.
        first_failed_at: Unix milliseconds of the first failure; None on the first attempt.
        origin: where the message was first read; this record itself on the first attempt.
        group: the consumer group that a retry is for; None on records that are not retries.
        history: the earlier attempts, the newest last; at most ten.
    """

    # Their order counts, as in Message.
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    id: str
    origin: Origin
    attempt: int = 1
    first_failed_at: int | None = None
    group: str | None = None
    history: History = ()


def normalize_headers(headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> Headers:
    """Return headers as pairs of text and bytes, from a mapping or from pairs; text values become UTF-8.

    Raises:
        TypeError: for a name that is not text, or a value that is neither bytes, text nor None.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    result: list[tuple[str, bytes | None]] = []
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, bytes | str | None):
            raise TypeError(f"header {name!r}={value!r}: the name is text, the value bytes, text or None")
        result.append((name, value.encode() if isinstance(value, str) else value))
    return tuple(result)
