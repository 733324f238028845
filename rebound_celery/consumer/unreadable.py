"""Decides what follows records that kafka-python cannot read: their partition stands still, or they are passed over.

A codec that is not installed and a batch that is damaged are such cases. No other partition waits for them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from kafka import KafkaConsumer

from ..compat.kafka_python import UnreadBatch, positions, report_unreadable
from ..message import Origin, Record
from ..message.ids import derive_record_id
from .codecs import advice
from .config import ConsumerConfig
from .failure_handler import FailureHandler
from .key_queues import KeyQueues
from .offset_tracker import OffsetTracker, Partition
from .rebalance import forget
from .retry_writer import RetryWriter

#: Seconds between two tries of a partition that stands still: at first, and at most.
FIRST_TRY_S = 5.0
LAST_TRY_S = 300.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Standstill:
    """A partition that stands still: where, why, and when it is tried again."""

    position: int
    text: str
    pause_s: float
    due: float


class Unreadable:
    """Hears of each batch that a poll could not read, and settles it by `on_unreadable` after the poll."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        config: ConsumerConfig,
        offset_tracker: OffsetTracker,
        key_queues: KeyQueues,
        retry_writer: RetryWriter,
        failure_handler: FailureHandler,
    ) -> None:
        self._consumer = consumer
        self._config = config
        self._offset_tracker = offset_tracker
        self._key_queues = key_queues
        self._retry_writer = retry_writer
        self._failure_handler = failure_handler
        self._found: list[UnreadBatch] = []
        self._still: dict[Partition, _Standstill] = {}
        report_unreadable(consumer, self._hear)

    def _hear(self, found: UnreadBatch) -> None:
        """Stop fetching the partition; kafka-python calls this inside a poll, in the loop's thread."""
        # Until the poll has ended it would otherwise be fetched, and fail, again and again.
        self._consumer.pause(found.partition)
        self._found.append(found)

    @property
    def detail(self) -> str:
        """What stands still, in one line, or the empty text."""
        return "; ".join(still.text for still in self._still.values())

    def standing(self) -> set[Partition]:
        """Partitions that are to stay paused now: all that stand still, but those whose next try is due."""
        now = time.monotonic()
        return {partition for partition, still in self._still.items() if now < still.due}

    def settle(self, stale_positions: Collection[Any]) -> None:
        """Act on what the last poll could not read; after the records of that poll were admitted.

        Args:
            stale_positions: partitions whose position is being asked for: what was found there does not count.
        """
        if not self._found and not self._still:
            return
        at = positions(self._consumer)
        self._forget_moved(at)
        found, self._found = self._found, []
        for one in found:
            # A rebalance in the same poll may have taken the partition away, or set it elsewhere.
            if one.partition not in stale_positions and at.get(one.partition) == one.position:
                self._settle(one)

    def _forget_moved(self, at: dict[Any, int]) -> None:
        for partition, still in list(self._still.items()):
            position = at.get(partition)
            if position == still.position:
                continue
            del self._still[partition]
            if position is not None and position > still.position:
                logger.warning(
                    "%s[%d] is read again", *partition, extra={"event": "unreadable_back", **_fields(partition)}
                )

    def _settle(self, one: UnreadBatch) -> None:
        choice = self._config.on_unreadable
        # Want of memory passes, and whoever does not know where the batch ends must not guess.
        if choice == "stop" or one.next_offset is None or isinstance(one.error, MemoryError):
            self._stand_still(one)
            return
        partition, next_offset = Partition(*one.partition), one.next_offset
        logger.error(
            "%s; on_unreadable is %r: %s, and the consumer goes on at offset %d",
            _what(one),
            choice,
            "its bytes become a dead letter" if choice == "dead-letter" else "it is passed over, nobody handles it",
            next_offset,
            extra={"event": "unreadable", "offset": one.offset, **_fields(partition)},
        )
        record = self._record(one) if choice == "dead-letter" else None
        jobs, replaced = self._offset_tracker.admit(partition, [(one.offset, record)], next_offset)
        if replaced is not None:
            forget(self._offset_tracker, self._key_queues, replaced)
        for job in jobs:
            self._retry_writer.put(
                self._failure_handler.give_up(job, "unreadable", one.error, time.time_ns() // 1_000_000)
            )
        self._consumer.seek(one.partition, next_offset)

    def _stand_still(self, one: UnreadBatch) -> None:
        now = time.monotonic()
        partition = Partition(*one.partition)
        still = self._still.get(partition)
        if still is None:
            still = self._still[partition] = _Standstill(one.position, "", FIRST_TRY_S, now)
        elif now < still.due:
            return  # a rebalance had resumed it
        else:
            still.pause_s = min(2 * still.pause_s, LAST_TRY_S)
        still.due = now + still.pause_s
        still.text = _what(one)
        logger.error(
            "%s. The partition stands still there and is tried again in %g s; the other partitions go on",
            still.text,
            still.pause_s,
            extra={"event": "unreadable", "offset": one.offset, **_fields(partition)},
        )

    def _record(self, one: UnreadBatch) -> Record:
        """The batch as a record whose value is its bytes as Kafka keeps them."""
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


def _what(one: UnreadBatch) -> str:
    topic, number = one.partition
    return f"{topic}[{number}]@{one.offset} cannot be read: {one.error!r}; {advice(one.error, one.codec)}"


def _fields(partition: Partition) -> dict[str, object]:
    return {"topic": partition.topic, "partition": partition.partition}
