"""Finds the committed offsets of newly assigned partitions, and the records that an earlier owner has done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from ..compat.kafka_python import committed_offsets, positions
from .connection import FATAL
from .offset_metadata import OffsetRange, UnknownMetadataError, decode
from .offset_tracker import OffsetTracker
from .partition_tracker import Mark

#: How long the loop waits for the committed offsets, in milliseconds.
_TIMEOUT_MS = 2_000

logger = logging.getLogger(__name__)


class Positions:
    """Opens the trackers of assigned partitions at the committed offset of the group.

    The rebalance listener names the partitions. It cannot ask Kafka itself, because kafka-python calls it on its IO
    thread, which must not block. Records of these partitions are not handled until the loop has asked.

    Args:
        consumer: the KafkaConsumer of the group.
        offset_tracker: the tracker of the records in flight.
        prepare: called with the partitions when their committed offsets are known, before they are opened. If it
            returns False, the next turn of the loop asks again. None prepares nothing.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        offset_tracker: OffsetTracker,
        prepare: Callable[[Sequence[tuple[str, int]]], bool] | None = None,
    ) -> None:
        self._consumer = consumer
        self._prepare = prepare
        self._offset_tracker = offset_tracker
        self._unknown: dict[TopicPartition, int | None] = {}

    @property
    def unknown(self) -> Collection[TopicPartition]:
        """The assigned partitions whose committed offset is not known yet."""
        return self._unknown.keys()

    def ask_for(self, partition: TopicPartition, fallback: int | None = None) -> None:
        """Let the loop ask for the committed offset of an assigned partition.

        Args:
            partition: the partition.
            fallback: the next offset to fetch if the group has committed nothing; None leaves kafka-python's position.
        """
        if self._unknown.get(partition) is None:
            self._unknown[partition] = fallback

    def keep(self, assigned: Collection[Any]) -> None:
        """Remove the partitions that are not in `assigned` from the unknown ones."""
        self._unknown = {partition: offset for partition, offset in self._unknown.items() if partition in assigned}

    def discard(self, lost: Collection[Any]) -> None:
        """Remove these partitions from the unknown ones."""
        self._unknown = {partition: offset for partition, offset in self._unknown.items() if partition not in lost}

    def known(self, polled: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """Return the polled records without those of unknown partitions."""
        if not self._unknown:
            return polled
        return {partition: batch for partition, batch in polled.items() if partition not in self._unknown}

    def find(self) -> list[TopicPartition]:
        """Ask Kafka, set the positions, and open the trackers. Call this between two polls.

        Returns:
            the partitions in which the group has committed nothing yet.
        """
        if not self._unknown:
            return []
        try:
            committed = committed_offsets(self._consumer, list(self._unknown), _TIMEOUT_MS)
        except FATAL:
            raise
        except (KafkaError, ValueError) as error:
            # The next turn of the loop asks again.
            logger.info(
                "Kafka has not returned the committed offsets of %s: %r",
                ", ".join(f"{topic}[{number}]" for topic, number in self._unknown),
                error,
                extra={"event": "positions_unknown"},
            )
            return []
        if self._prepare is not None and not self._prepare(list(self._unknown)):
            return []
        new = []
        for partition, fallback in self._unknown.items():
            found = committed.get(partition)
            if found is None:
                new.append(partition)
                if fallback is not None:
                    self._consumer.seek(partition, fallback)
                self._offset_tracker.open(partition)
            else:
                self._consumer.seek(partition, found.offset)
                mark = Mark(found.offset, found.metadata or "")
                self._offset_tracker.open(partition, mark, self._completed(partition, found))
        self._unknown = {}
        return new

    def note(self) -> None:
        """Give the positions of the partitions to the offset tracker. Call this between two polls.

        Transaction markers, aborted transactions or compacted records may follow the last record. Then the position is
        above it. Without this call, the commit would stop at the last record, and the group would keep a lag for ever.
        """
        at = positions(self._consumer)
        self._offset_tracker.advance({p: offset for p, offset in at.items() if p not in self._unknown})

    def _completed(self, partition: TopicPartition, found: OffsetAndMetadata) -> list[OffsetRange]:
        """Return the offsets above the committed one that an earlier owner has done."""
        fields = {"topic": partition.topic, "partition": partition.partition}
        try:
            ranges = decode(found.offset, found.metadata or "")
        except ValueError as error:
            level = logging.INFO if isinstance(error, UnknownMetadataError) else logging.WARNING
            logger.log(
                level,
                "the metadata of the committed offset of %s[%d] is ignored: %s",
                *partition,
                error,
                extra={"event": "metadata_ignored", **fields},
            )
            return []
        if ranges:
            count = sum(end - start for start, end in ranges)
            logger.info(
                "%s[%d]: an earlier consumer has done %d offsets beyond the committed one; they are skipped",
                *partition,
                count,
                extra={"event": "completed_skipped", "count": count, **fields},
            )
        return ranges
