"""The record, in the form that the consumer gives to the handler."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .history import History

#: Pairs of name and value in their order. Kafka allows repeated names and values that are null.
Headers = tuple[tuple[str, bytes | None], ...]


class Origin(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The record that a message was first read from. `timestamp` is the record's own, in Unix milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


class Record(msgspec.Struct, frozen=True, gc=False):
    """A Kafka record for the handler: the fields of kafka-python's ConsumerRecord, and the attempt.

    Attributes:
        topic, partition, offset: the position of this record.
        timestamp: the record's own timestamp, in Unix milliseconds.
        key, value: the bytes as produced; None if the record has none.
        headers: pairs of name and bytes in their order, without the headers that rebound adds.
        attempt: the number of this try of the processing; 1 is the first.
        id: the same over all attempts of one message. A handler can drop duplicates by it.
        first_failed_at: the time of the first failure in Unix milliseconds; None on the first attempt.
        origin: the record that the message was first read from; on the first attempt this record itself.
        group: the consumer group that a retry is for; None on records that are not retries.
        history: the earlier attempts, the newest last; at most ten.
        data: what the consumer's deserializer has made of the value; None without a deserializer.
        previous_span: the span of the attempt before, as a W3C `traceparent`; None if it was not traced.
    """

    # The order of the fields counts, as in Message.
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
    data: Any = None
    previous_span: str | None = None


def normalize_headers(headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> Headers:
    """Return headers as pairs of text and bytes, from a mapping or from pairs. Text values become UTF-8.

    Args:
        headers: a mapping or pairs; None means no headers.

    Raises:
        TypeError: if a name is not text, or a value is not bytes, text or None.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    result: list[tuple[str, bytes | None]] = []
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, bytes | str | None):
            raise TypeError(f"header {name!r}={value!r}: the name is text, the value bytes, text or None")
        result.append((name, value.encode() if isinstance(value, str) else value))
    return tuple(result)
