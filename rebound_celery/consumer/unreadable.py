"""Handles batches of records that kafka-python cannot read: their partition stops, or the batches are skipped.

A batch cannot be read if its codec is not installed, or if it is damaged. The other partitions go on.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer

from ..clock import SYSTEM_CLOCK, Clock
from ..compat.kafka_python import positions
from ..compat.kafka_unreadable import UnreadBatch, report_unreadable
from ..message import Origin, Record
from ..message.ids import derive_record_id
from .codecs import advice
from .config import ConsumerConfig
from .failure_handler import FailureHandler
from .key_queues import KeyQueues
from .offset_tracker import OffsetTracker
from .partition_tracker import Partition
from .rebalance import release
from .retry_writer import RetryWriter

#: The first and the longest wait of a stopped partition before the next try, in seconds.
FIRST_TRY_S = 5.0
LAST_TRY_S = 300.0

#: The reason of the dead letter of such a batch.
UNREADABLE = "unreadable"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Stopped:
    """A partition that stopped: its position, the reason, and the time of the next try."""

    position: int
    text: str
    pause_s: float
    due: float


class Unreadable:
    """Notes each batch that a poll cannot read. After the poll, it does what `on_unreadable` says."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        config: ConsumerConfig,
        offset_tracker: OffsetTracker,
        key_queues: KeyQueues,
        retry_writer: RetryWriter,
        failure_handler: FailureHandler,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._consumer = consumer
        self._config = config
        self._offset_tracker = offset_tracker
        self._key_queues = key_queues
        self._retry_writer = retry_writer
        self._failure_handler = failure_handler
        self._clock = clock
        self._found: list[UnreadBatch] = []
        self._stopped: dict[Partition, _Stopped] = {}
        report_unreadable(consumer, self._note)

    def _note(self, found: UnreadBatch) -> None:
        """Note a batch and pause its partition. kafka-python calls this inside a poll, in the loop's thread."""
        # Without the pause, the same poll would fetch the batch again and again.
        self._consumer.pause(found.partition)
        self._found.append(found)

    @property
    def detail(self) -> str:
        """The stopped partitions in one line; the empty text if there are none."""
        return "; ".join(stopped.text for stopped in self._stopped.values())

    def kept_paused(self) -> set[Partition]:
        """Return the stopped partitions, without those whose next try is due."""
        if not self._stopped:
            return set()
        now = self._clock.monotonic()
        return {partition for partition, stopped in self._stopped.items() if now < stopped.due}

    def act(self, unknown_positions: Collection[Any]) -> None:
        """Act on the batches that the last poll could not read. The records of that poll must be admitted before.

        Args:
            unknown_positions: partitions whose committed offset is not known yet. Their batches are left out.
        """
        if not self._found and not self._stopped:
            return
        at = positions(self._consumer)
        self._clear_moved(at)
        found, self._found = self._found, []
        for one in found:
            # A rebalance in the same poll may have taken the partition away, or changed its position.
            if one.partition not in unknown_positions and at.get(one.partition) == one.position:
                self._act_on(one)

    def _clear_moved(self, at: dict[Any, int]) -> None:
        for partition, stopped in list(self._stopped.items()):
            position = at.get(partition)
            if position == stopped.position:
                continue
            del self._stopped[partition]
            if position is not None and position > stopped.position:
                logger.warning(
                    "%s[%d] is read again", *partition, extra={"event": "unreadable_back", **_fields(partition)}
                )

    def _act_on(self, one: UnreadBatch) -> None:
        choice = self._config.on_unreadable
        # A lack of memory may pass. And if the end of the batch is not known, the batch cannot be skipped.
        if choice == "stop" or one.next_offset is None or isinstance(one.error, MemoryError):
            self._stop(one)
            return
        partition, next_offset = Partition(*one.partition), one.next_offset
        logger.error(
            "%s; on_unreadable is %r: %s, and the consumer goes on at offset %d",
            self._what(one),
            choice,
            "its bytes become a dead letter" if choice == "dead-letter" else "it is passed over, nobody handles it",
            next_offset,
            extra={"event": "unreadable", "offset": one.offset, **_fields(partition)},
        )
        record = None
        if choice == "dead-letter":
            record = self._record(one)
            # It may end the consumer. So nothing is admitted yet.
            self._failure_handler.limit.admit(record.origin, UNREADABLE)
        jobs, replaced = self._offset_tracker.admit(partition, [(one.offset, record)], next_offset)
        if replaced is not None:
            release(self._offset_tracker, self._key_queues, replaced)
        for job in jobs:
            self._retry_writer.put(self._failure_handler.give_up(job, UNREADABLE, one.error, self._clock.now_ms()))
        self._consumer.seek(one.partition, next_offset)

    def _stop(self, one: UnreadBatch) -> None:
        now = self._clock.monotonic()
        partition = Partition(*one.partition)
        stopped = self._stopped.get(partition)
        if stopped is None:
            stopped = self._stopped[partition] = _Stopped(one.position, "", FIRST_TRY_S, now)
        elif now < stopped.due:
            return  # a rebalance resumed the partition too early
        else:
            stopped.pause_s = min(2 * stopped.pause_s, LAST_TRY_S)
        stopped.due = now + stopped.pause_s
        stopped.text = self._what(one)
        logger.error(
            "%s. The partition stops there and is tried again in %g s; the other partitions go on",
            stopped.text,
            stopped.pause_s,
            extra={"event": "unreadable", "offset": one.offset, **_fields(partition)},
        )

    def _record(self, one: UnreadBatch) -> Record:
        """Return the batch as one record. Its value is the bytes of the batch, in Kafka's own form."""
        topic, number = one.partition
        return Record(
            topic=topic,
            partition=number,
            offset=one.offset,
            timestamp=one.timestamp,
            key=None,
            value=one.raw,
            headers=(),
            id=derive_record_id(self._config.group, topic, number, one.offset, one.timestamp),
            origin=Origin(topic, number, one.offset, one.timestamp),
        )

    def _what(self, one: UnreadBatch) -> str:
        topic, number = one.partition
        error = self._failure_handler.redact.text(repr(one.error))
        return f"{topic}[{number}]@{one.offset} cannot be read: {error}; {advice(one.error, one.codec)}"


def _fields(partition: Partition) -> dict[str, object]:
    return {"topic": partition.topic, "partition": partition.partition}
