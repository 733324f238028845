"""Corrects faults of kafka-python 3.0. `patches.py` lists each piece of private code that this module changes."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import FencedInstanceIdError
from kafka.structs import OffsetAndMetadata

from .versions import warn_of_untested

#: The least time in seconds that a poll waits for Kafka's answer, even while a heartbeat is overdue.
_SHORTEST_WAIT_S = 0.05

warn_of_untested("kafka-python")


def keep_poll_waiting(consumer: KafkaConsumer) -> None:
    """Make each poll wait some time for Kafka's answer. Call it once for a consumer.

    A poll of kafka-python waits until the next heartbeat. It does not wait at all while a heartbeat is overdue. If the
    broker hangs, the caller's loop then runs at full speed. Each poll adds a callback to the unanswered request, which
    takes about 10 MB a second. kafka-python sends heartbeats in a separate loop, so a poll that waits delays none.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    time_to_next_poll = getattr(coordinator, "time_to_next_poll", None)
    if time_to_next_poll is not None:
        coordinator.time_to_next_poll = lambda: max(time_to_next_poll(), _SHORTEST_WAIT_S)  # type: ignore[union-attr]


def release_set_aside_records(consumer: KafkaConsumer) -> None:
    """Give resumed partitions the records that were fetched before their pause. Call it before each poll.

    When a partition is paused, kafka-python sets its parsed records aside. It returns to them only while it has no
    current partition. But a partition stays current after its last record was taken: `Fetcher.fetched_records` compares
    the partition with None and does not check whether it has records left. So the records that were set aside wait
    for ever. Meanwhile kafka-python does not fetch from their partition: it has a lag, and no records come.
    """
    fetcher = getattr(consumer, "_fetcher", None)
    current = getattr(fetcher, "_next_partition_records", None)
    if current is not None and not current:
        fetcher._next_partition_records = None  # type: ignore[union-attr]


def finish_joins(consumer: KafkaConsumer) -> None:
    """Let a later poll finish the group join that an earlier poll began. Call it once for a consumer.

    A poll can end before Kafka has answered the request to join. If the answer comes between two polls, kafka-python
    drops it and joins again. This can repeat for many generations.

    A second fault concerns the leader of a group that joins again because its topics have changed. The leader counts
    itself as joined as soon as it has assigned the partitions. It never takes its own partitions and sends no
    heartbeat. It does not notice that the group goes on without it.
    """
    coordinator: Any = getattr(consumer, "_coordinator", None)
    need_rejoin = getattr(coordinator, "need_rejoin", None)
    join = getattr(coordinator, "_do_join_and_sync_async", None)
    complete = getattr(coordinator, "_on_join_complete_async", None)
    if need_rejoin is None or join is None or complete is None:
        return
    #: The answer that no poll has taken yet, with its generation.
    untaken: list[tuple[Any, Any]] = []

    async def join_once() -> Any:
        if untaken:
            generation, assignment = untaken.pop()
            # After a later join this answer is out of date.
            if generation == coordinator._generation:
                return assignment
        assignment = await join()
        untaken[:] = [(coordinator._generation, assignment)]
        return assignment

    async def take(*arguments: Any) -> Any:
        untaken.clear()
        return await complete(*arguments)

    coordinator.need_rejoin = lambda: need_rejoin() or coordinator.rejoining
    coordinator._do_join_and_sync_async = join_once
    coordinator._on_join_complete_async = take


def obey_auto_create(consumer: KafkaConsumer) -> None:
    """Make the option `allow_auto_create_topics` work. Call it once for a consumer, before it subscribes.

    kafka-python takes the option, and its `KafkaConnectionManager` does not give it to `ClusterMetadata`, whose
    `metadata_request` asks Kafka for the topics. So whoever deletes a topic finds it created again by its consumers,
    with the broker's defaults for partitions, replicas and retention.
    """
    config = getattr(getattr(consumer, "_cluster", None), "config", None)
    if config is not None:
        config["allow_auto_create_topics"] = consumer.config["allow_auto_create_topics"]


def end_when_fenced(consumer: KafkaConsumer) -> None:
    """Make the next poll raise FencedInstanceIdError if a heartbeat was refused with it. Call it once for a consumer.

    Kafka refuses a member whose `group_instance_id` another member has taken. kafka-python logs this, and sends no
    heartbeat any more. Until its first commit it goes on with its partitions, and so does the other member.
    """
    coordinator: Any = getattr(consumer, "_coordinator", None)
    handle = getattr(coordinator, "_handle_heartbeat_response", None)
    if handle is None:
        return

    def handle_or_end(*arguments: Any) -> Any:
        try:
            return handle(*arguments)
        except FencedInstanceIdError:
            # Each poll calls _invoke_completed_offset_commit_callbacks, which raises the error if this is set.
            coordinator._async_commit_fenced = True
            raise

    coordinator._handle_heartbeat_response = handle_or_end


def report_gone_offsets(consumer: KafkaConsumer, report: Callable[[TopicPartition, int], object]) -> None:
    """Make a poll call `report` with a partition and its offset if Kafka does not have the offset. Call it once.

    kafka-python logs this at the level INFO. With a policy for `auto_offset_reset` it then goes on elsewhere.
    """
    subscription: Any = getattr(consumer, "_subscription", None)
    reset = getattr(subscription, "request_offset_reset", None)
    if reset is None:
        return

    def report_and_reset(partition: TopicPartition, *strategy: Any) -> Any:
        state = subscription.assignment.get(partition)
        # A strategy is given by `seek_to_beginning` and `seek_to_end` only.
        if not strategy and state is not None and state.position is not None:
            report(partition, state.position.offset)
        return reset(partition, *strategy)

    subscription.request_offset_reset = report_and_reset


def positions(consumer: KafkaConsumer) -> dict[TopicPartition, int]:
    """Return the next offset to fetch of each assigned partition. Partitions without a known position are left out.

    `consumer.position` would ask Kafka for an unknown position and wait for the answer.
    """
    found = {}
    for partition in consumer.assignment():
        state = consumer._subscription.assignment.get(partition)
        position = None if state is None else state.position
        if position is not None:
            found[partition] = position.offset
    return found


def committed_offsets(
    consumer: KafkaConsumer, partitions: list[TopicPartition], timeout_ms: int
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return the committed offsets of several partitions, with their metadata, from one request.

    `KafkaConsumer.committed` would make a request for each partition. Partitions without a committed offset are left
    out.

    Raises:
        KafkaTimeoutError: if the group's coordinator does not answer in time.
    """
    found: dict[TopicPartition, OffsetAndMetadata] = consumer._coordinator.fetch_committed_offsets(
        partitions, timeout_ms=timeout_ms
    )
    return found


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
