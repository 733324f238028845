"""Makes kafka-python report batches of records that it cannot read, in place of the fault that it has then."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher


@dataclass(frozen=True, slots=True)
class UnreadBatch:
    """A batch of records that kafka-python could not read.

    Attributes:
        partition: the partition of the batch.
        position: kafka-python's position in the partition. The next fetch would begin there and fail again.
        offset: the offset of the first record that could not be read.
        next_offset: the first offset of the next batch; None if it is not known.
        raw: the batch in Kafka's own form, with its header.
        codec: the number of the batch's compression; 0 means none.
        timestamp: the latest timestamp of its records, in Unix milliseconds; -1 if the batch has none.
        error: the exception that reading it raised.
    """

    partition: TopicPartition
    position: int
    offset: int
    next_offset: int | None
    raw: bytes
    codec: int
    timestamp: int
    error: Exception


class _Traced:
    """Wraps kafka-python's MemoryRecords and remembers the last batch that it returned."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self._current: Any = None

    def next_batch(self) -> Any:
        self._current = self._records._next_slice
        return self._records.next_batch()

    def unread(self, partition: TopicPartition, position: int, error: Exception) -> UnreadBatch:
        """Describe the last batch. Impossible values of a damaged batch are left out."""
        raw = bytes(self._current or b"")
        following = self._records._next_slice
        offset, ends, codec, timestamp = position, [], 0, -1
        if len(raw) >= _BATCH_V2.size and raw[_MAGIC_AT] == 2:
            base, _, _, _, _, attributes, last_delta, _, timestamp = _BATCH_V2.unpack_from(raw)
            codec = attributes & _CODEC_MASK
            # The position may lie in a gap before the batch.
            offset = max(position, base)
            ends.append(base + last_delta + 1)
        elif len(raw) >= _BATCH_V1.size:
            # In the formats 0 and 1, a compressed batch has the offset of its last record.
            last, _, _, magic, attributes, timestamp = _BATCH_V1.unpack_from(raw)
            codec, timestamp = attributes & _CODEC_MASK, timestamp if magic == 1 else -1
            ends.append(last + 1)
        if following is not None and following is not self._current and len(following) >= _BASE_OFFSET.size:
            ends.append(_BASE_OFFSET.unpack_from(following)[0])
        # In a sound batch the first end is right. In a damaged batch each end may be wrong. The lowest end skips no
        # record that could be read.
        next_offset = min((end for end in ends if end > position), default=None)
        if next_offset is not None and offset >= next_offset:
            offset = position
        return UnreadBatch(partition, position, offset, next_offset, raw, codec, timestamp, error)


_BASE_OFFSET = struct.Struct(">q")
_MAGIC_AT = 16
_CODEC_MASK = 0x07
#: Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and last timestamp.
_BATCH_V2 = struct.Struct(">qiibIhiqq")
#: Offset, length, CRC, magic, attributes, timestamp.
_BATCH_V1 = struct.Struct(">qiIbbq")


def report_unreadable(consumer: KafkaConsumer, report: Callable[[UnreadBatch], None]) -> None:
    """Make a poll call `report` for a batch that it cannot read, instead of raising. Call this once for a consumer.

    Reading a batch can fail: its codec is not installed, or its CRC or its length is wrong. kafka-python 3.0.12 raises
    the error from the poll, without the position of the batch. This error ends the generator of the records. In the
    next poll, `Fetcher.fetched_records` takes records from this generator and gets none. It does not notice that the
    generator has ended and tries again for ever, at full speed, inside the poll.

    With this patch the partition counts as read to its end. The poll goes on with the other partitions, and the
    position stays before the batch. `report` must pause the partition. Otherwise the batch is fetched again at once.
    """
    fetcher: Any = getattr(consumer, "_fetcher", None)
    if not hasattr(fetcher, "PartitionRecords") or not hasattr(Fetcher.PartitionRecords, "_unpack_records"):
        return

    class PartitionRecords(Fetcher.PartitionRecords):
        def _unpack_records(self, tp: TopicPartition, records: Any, *deserializers: Any) -> Iterator[Any]:
            traced = _Traced(records)
            try:
                yield from super()._unpack_records(tp, traced, *deserializers)
            except Exception as error:  # noqa: BLE001 - a codec or a damaged record may raise anything
                # Records below the position were read but not returned, so the position is the later offset.
                self.next_fetch_offset: int = max(self.next_fetch_offset, self.fetch_offset)
                self.drain()
                report(traced.unread(tp, self.next_fetch_offset, error))

    fetcher.PartitionRecords = PartitionRecords
