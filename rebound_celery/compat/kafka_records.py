"""Reads the records of a batch faster than kafka-python 3.0, and reads some that kafka-python refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kafka.record.default_records import DefaultRecord, DefaultRecordBatch

#: The bits of a batch's attributes for its control records and for timestamps that the broker has set.
_UNUSUAL = DefaultRecordBatch.CONTROL_MASK | DefaultRecordBatch.TIMESTAMP_TYPE_MASK


class _BytesWithReplacement(bytearray):
    """Bytes whose `decode` never fails. Like in Kafka's Java client, a byte that is not UTF-8 becomes U+FFFD."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _BytesWithReplacement(part) if isinstance(key, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:  # noqa: ARG002
        return super().decode(encoding, "replace")


def read_all_records() -> None:
    """Let kafka-python read any header name, and usual records in half of the time. One call serves the whole process.

    Kafka accepts a header name that is not UTF-8, but kafka-python raises an error for such a record. Then each poll
    fails, and the consumer never gets past the record.
    """
    read = DefaultRecordBatch._read_msg
    if hasattr(read, "upstream"):
        return

    def read_any(batch: Any) -> Any:
        record = _read_quickly(batch)
        return _read_leniently(batch, read) if record is None else record

    read_any.upstream = read  # type: ignore[attr-defined]
    DefaultRecordBatch._read_msg = read_any


def _read_leniently(batch: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(batch)
    except UnicodeDecodeError:
        # The batch's position has not changed, so this reads the same record again.
        batch._buffer = _BytesWithReplacement(batch._buffer)
        return read(batch)


def _read_quickly(batch: Any) -> Any:  # noqa: C901 - calls of functions would take the time that this saves
    """Return the next record of a batch. Return None, and change nothing, if it is unusual or damaged.

    kafka-python calls a function for each number of a record. Here the usual numbers of one or two bytes are read in
    place. A number is stored as a varint: seven bits in each byte, the lowest first; the highest bit says that a byte
    follows, and the lowest bit is the sign.
    """
    header = batch._header_data
    if header[5] & _UNUSUAL:
        return None
    buffer, position = batch._buffer, batch._pos
    try:
        length = buffer[position]
        position += 1
        if length > 0x7F:
            length = length & 0x7F | buffer[position] << 7
            position += 1
        end = position + (length >> 1)
        # The attributes are not used, and always 0.
        if length > 0x3FFF or length & 1 or buffer[position]:
            return None
        time = buffer[position + 1]
        position += 2
        if time > 0x7F:
            time = time & 0x7F | buffer[position] << 7
            position += 1
        number = buffer[position]
        position += 1
        if number > 0x7F:
            number = number & 0x7F | buffer[position] << 7
            position += 1
        if time > 0x3FFF or time & 1 or number > 0x3FFF or number & 1:
            return None
        size = buffer[position]
        position += 1
        if size == 1:
            key = None
        elif size > 0x7F or size & 1:
            return None
        else:
            start, position = position, position + (size >> 1)
            key = bytes(buffer[start:position])
        size = buffer[position]
        position += 1
        if size > 0x7F:
            size = size & 0x7F | buffer[position] << 7
            position += 1
        if size > 0x3FFF or size & 1:
            return None
        start, position = position, position + (size >> 1)
        ends, count = position, buffer[position]
        position += 1
        headers: list[tuple[str, bytes | None]] = []
        if count:
            position = _read_headers(buffer, position, count, headers)
        if position != end:
            return None
    except (IndexError, UnicodeDecodeError):
        return None
    batch._pos = end
    value = bytes(buffer[start:ends])
    return DefaultRecord(length >> 1, header[0] + (number >> 1), header[7] + (time >> 1), 0, key, value, headers)


def _read_headers(buffer: bytearray, position: int, count: int, headers: list[tuple[str, bytes | None]]) -> int:
    """Read a record's headers from a position, and return the position after them. Return -1 if they are unusual."""
    if count > 0x7F or count & 1:
        return -1
    for _ in range(count >> 1):
        size = buffer[position]
        if size > 0x7F or size & 1:
            return -1
        start = position + 1
        position = start + (size >> 1)
        name = buffer[start:position].decode()
        size = buffer[position]
        position += 1
        if size == 1:
            headers.append((name, None))
            continue
        if size > 0x7F:
            size = size & 0x7F | buffer[position] << 7
            position += 1
        if size > 0x3FFF or size & 1:
            return -1
        start, position = position, position + (size >> 1)
        headers.append((name, bytes(buffer[start:position])))
    return position
