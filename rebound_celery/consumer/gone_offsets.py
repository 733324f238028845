"""Warns when Kafka no longer has the offset at which the group would go on in a partition.

kafka-python then goes on where the option `auto_offset_reset` says. It tells of this at the level INFO, and not how
much is passed over.
"""

from __future__ import annotations

import logging
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from ..compat.kafka_python import positions, report_gone_offsets

#: How long the loop waits for the first and the end offset of a partition, in milliseconds.
_TIMEOUT_MS = 2_000

logger = logging.getLogger(__name__)


class GoneOffsets:
    """Collects the partitions whose offset is gone, and logs a warning once their new offset is known."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer
        #: Partition -> the offset that Kafka does not have.
        self._gone: dict[TopicPartition, int] = {}
        report_gone_offsets(consumer, self._gone.setdefault)

    def report(self) -> None:
        """Log what was found since the last call. Call this between two polls."""
        if not self._gone:
            return
        at, assigned = positions(self._consumer), self._consumer.assignment()
        for partition, offset in list(self._gone.items()):
            if partition not in assigned:
                del self._gone[partition]
            elif partition in at:
                del self._gone[partition]
                self._log(partition, offset, at[partition])

    def _log(self, partition: TopicPartition, offset: int, position: int) -> None:
        try:
            (first,) = self._consumer.beginning_offsets([partition], timeout_ms=_TIMEOUT_MS).values()
            (end,) = self._consumer.end_offsets([partition], timeout_ms=_TIMEOUT_MS).values()
        except (KafkaError, KeyError, AttributeError, ValueError) as error:
            # kafka-python raises KeyError or AttributeError for a partition that does not exist in Kafka.
            logger.debug("Kafka has not returned the first and the end offset: %r", error)
            what, at = "Kafka does not have the offset %d any more", [offset]
        else:
            if offset < first:
                what, at = "Kafka has deleted the offsets %d to %d before they were consumed", [offset, first - 1]
            else:
                what, at = "Kafka does not have the offset %d any more, its log ends at %d", [offset, end]
            if self._consumer.config["auto_offset_reset"] == "earliest":
                # Records may have come since. They begin at the first offset.
                position = first
        fields: dict[str, Any] = {"topic": partition.topic, "partition": partition.partition, "offset": offset}
        logger.warning(
            f"%s[%d]: {what}; the consumer goes on at offset %d (auto_offset_reset=%s)",
            *partition,
            *at,
            position,
            self._consumer.config["auto_offset_reset"],
            extra={"event": "offset_gone", "position": position, **fields},
        )
