"""What kafka-python 3.0.12 does that its users have to mend."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch

#: Seconds that a poll waits at least for Kafka's answer, however late a heartbeat is.
_SHORTEST_WAIT_S = 0.05


def calm(consumer: KafkaConsumer) -> None:
    """Keep polls from spinning while Kafka does not answer; to be called once.

    A poll waits no longer than until the next heartbeat, and not at all while one is overdue: with a broker that hangs
    it goes round as fast as it can, and each round leaves a callback on the unanswered request, some 10 MB a second.
    Heartbeats have a loop of their own, so nothing is gained by not waiting.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    time_to_next_poll = getattr(coordinator, "time_to_next_poll", None)
    if time_to_next_poll is not None:
        coordinator.time_to_next_poll = lambda: max(time_to_next_poll(), _SHORTEST_WAIT_S)  # type: ignore[union-attr]


def unstick(consumer: KafkaConsumer) -> None:
    """Let paused partitions that were resumed have their records back; to be called before each poll.

    Records that were fetched and parsed before a pause are parked, and put back only while no other partition is in
    line. The one in line stays there after its last record was taken, so the parked ones wait for good, and while they
    are parked, their partition is not fetched: it has a lag, and no records come. (Fetcher.fetched_records tests for
    None where it means "used up".)
    """
    fetcher = getattr(consumer, "_fetcher", None)
    in_line = getattr(fetcher, "_next_partition_records", None)
    if in_line is not None and not in_line:
        fetcher._next_partition_records = None  # type: ignore[union-attr]  # noqa: SLF001


def finish_joins(consumer: KafkaConsumer) -> None:
    """Let what a poll began of joining the group be finished by a later one; to be called once.

    A poll that ends before the group's answer leaves the join under way. If the answer comes between two polls,
    kafka-python throws it away and joins anew, and so on, generation after generation. And if it joined because it
    leads the group and its topics have changed, it takes itself for joined as soon as it has dealt out the partitions:
    it never takes its own, sends no heartbeat, and does not learn that the group goes on without it.
    """
    coordinator: Any = getattr(consumer, "_coordinator", None)
    need_rejoin = getattr(coordinator, "need_rejoin", None)
    join = getattr(coordinator, "_do_join_and_sync_async", None)
    complete = getattr(coordinator, "_on_join_complete_async", None)
    if need_rejoin is None or join is None or complete is None:
        return
    #: The answer that no poll has taken yet, and the generation that it is of.
    untaken: list[tuple[Any, Any]] = []

    async def join_once() -> Any:
        if untaken:
            generation, assignment = untaken.pop()
            # Still a member of it? Else the group has another answer.
            if generation == coordinator._generation:  # noqa: SLF001
                return assignment
        assignment = await join()
        untaken[:] = [(coordinator._generation, assignment)]  # noqa: SLF001
        return assignment

    async def take(*arguments: Any) -> Any:
        untaken.clear()
        return await complete(*arguments)

    coordinator.need_rejoin = lambda: need_rejoin() or coordinator.rejoining
    coordinator._do_join_and_sync_async = join_once  # noqa: SLF001
    coordinator._on_join_complete_async = take  # noqa: SLF001


def positions(consumer: KafkaConsumer) -> dict[TopicPartition, int]:
    """Where fetching goes on in each assigned partition, as far as that is known.

    `consumer.position` would ask Kafka for what is not known, and wait for the answer.
    """
    found = {}
    for partition in consumer.assignment():
        state = consumer._subscription.assignment.get(partition)  # noqa: SLF001
        position = None if state is None else state.position
        if position is not None:
            found[partition] = position.offset
    return found


@dataclass(frozen=True, slots=True)
class UnreadBatch:
    """A batch of records that kafka-python could not read.

    Attributes:
        partition: where it lies.
        position: the position that kafka-python keeps in the partition: where it would fetch, and fail, again.
        offset: the first record that could not be read.
        next_offset: where the next batch begins; None if that is not known.
        raw: the batch as Kafka keeps it, its header included.
        codec: the number of its compression; 0 for none.
        timestamp: the latest of its records, Unix milliseconds; -1 if it tells none.
        error: what reading it raised.
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
    """kafka-python's MemoryRecords, which remembers the batch that it gave last."""

    def __init__(self, records: Any) -> None:
        self._records = records
        self._current: Any = None

    def next_batch(self) -> Any:
        self._current = self._records._next_slice  # noqa: SLF001
        return self._records.next_batch()

    def unread(self, partition: TopicPartition, position: int, error: Exception) -> UnreadBatch:
        """Describe the batch that was given last; of a damaged one, only what can be true."""
        raw = bytes(self._current or b"")
        following = self._records._next_slice  # noqa: SLF001
        offset, ends, codec, timestamp = position, [], 0, -1
        if len(raw) >= _BATCH_V2.size and raw[_MAGIC_AT] == 2:
            base, _, _, _, _, attributes, last_delta, _, timestamp = _BATCH_V2.unpack_from(raw)
            codec = attributes & _CODEC_MASK
            # The position may lie in a gap before the batch.
            offset = max(position, base)
            ends.append(base + last_delta + 1)
        elif len(raw) >= _BATCH_V1.size:
            # Formats 0 and 1 give a compressed batch the offset of its last record.
            last, _, _, magic, attributes, timestamp = _BATCH_V1.unpack_from(raw)
            codec, timestamp = attributes & _CODEC_MASK, timestamp if magic == 1 else -1
            ends.append(last + 1)
        if following is not None and following is not self._current and len(following) >= _BASE_OFFSET.size:
            ends.append(_BASE_OFFSET.unpack_from(following)[0])
        # In a sound batch the first one holds. In a damaged one any may be wrong: the lowest passes over no record that
        # could be read.
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
    """Have a batch that cannot be read reported instead of raised; to be called once.

    kafka-python 3.0.12 raises what reading a batch raised (a codec that is not installed, a wrong CRC, a wrong length)
    from the first poll, without saying where. In the next poll, Fetcher.fetched_records takes records from the
    generator that this error has ended. It gets none, takes that for "not used up", and asks again for ever, at full
    speed and inside the poll. Here the partition's records count as used up: the poll goes on with the other
    partitions, and the position stays before the batch. `report` must pause the partition, or it is fetched again at
    once.
    """
    fetcher: Any = getattr(consumer, "_fetcher", None)
    if not hasattr(fetcher, "PartitionRecords") or not hasattr(Fetcher.PartitionRecords, "_unpack_records"):
        return

    class PartitionRecords(Fetcher.PartitionRecords):
        def _unpack_records(self, tp: TopicPartition, records: Any, *deserializers: Any) -> Iterator[Any]:
            traced = _Traced(records)
            try:
                yield from super()._unpack_records(tp, traced, *deserializers)
            except Exception as error:  # noqa: BLE001 - whatever a codec, or what reads a damaged record, raises
                # Records below the position were read only to be left out.
                self.next_fetch_offset: int = max(self.next_fetch_offset, self.fetch_offset)
                self.drain()
                report(traced.unread(tp, self.next_fetch_offset, error))

    fetcher.PartitionRecords = PartitionRecords


class _Lenient(bytearray):
    """Bytes whose text is read as Java's Kafka client reads it: what is no UTF-8 becomes U+FFFD."""

    def __getitem__(self, key: Any) -> Any:
        part = super().__getitem__(key)
        return _Lenient(part) if isinstance(key, slice) else part

    def decode(self, encoding: str = "utf-8", errors: str = "replace") -> str:  # noqa: ARG002
        return super().decode(encoding, "replace")


def read_any_header_name() -> None:
    """Let records through that have a header whose name is no UTF-8; for all consumers of the process, once.

    Kafka takes such records, and kafka-python raises for them: each poll fails, and the partition stands still for
    good.
    """
    read = DefaultRecordBatch._read_msg  # noqa: SLF001
    if getattr(read, "rebound", False):
        return

    def read_leniently(batch: Any) -> Any:
        try:
            return read(batch)
        except UnicodeDecodeError:
            # It has not moved on yet, so the same record is read again.
            batch._buffer = _Lenient(batch._buffer)  # noqa: SLF001
            return read(batch)

    read_leniently.rebound = True  # type: ignore[attr-defined]
    DefaultRecordBatch._read_msg = read_leniently  # noqa: SLF001
