"""Commits the offsets of records soon after they are done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from ..clock import SYSTEM_CLOCK, Clock
from .connection import FATAL
from .offset_tracker import OffsetTracker
from .partition_tracker import Mark, Partition

#: How long a commit without an answer delays the next commit, in seconds.
COMMIT_TIMEOUT_S = 10.0

#: How long the answer to a commit is waited for with short polls, in seconds. A Kafka that hangs gives none for longer,
#: and short polls would use a whole core meanwhile.
_SOON_S = 0.2

#: The time before a commit that has failed is tried again, in seconds. During a rebalance Kafka refuses each one.
_AGAIN_S = 0.1

logger = logging.getLogger(__name__)


def kafka_offsets(marks: Mapping[Partition, Mark]) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return marks as kafka-python's offsets."""
    return {TopicPartition(*p): OffsetAndMetadata(mark.offset, mark.metadata, -1) for p, mark in marks.items()}


class Commits:
    """Sends the commits, one at a time. The next one waits for the answer to the last one, and for something to commit.

    Only the loop's thread may call the methods.

    Args:
        consumer: the KafkaConsumer of the group.
        offset_tracker: the tracker of the records that are done.
        interval_s: the least time between the starts of two commits, in seconds.
        on_answer: called when Kafka has confirmed a commit.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        offset_tracker: OffsetTracker,
        interval_s: float,
        on_answer: Callable[[], object],
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._consumer = consumer
        self._offset_tracker = offset_tracker
        self._interval_s = interval_s
        self._on_answer = on_answer
        self._clock = clock
        self._next = clock.monotonic() + interval_s
        #: The time at which the commit under way is given up; None if no commit is under way.
        self._deadline: float | None = None
        self._failing = False

    def due_in_s(self) -> float | None:
        """Return the seconds until the next commit, or 0 while the answer to the last one should come.

        None means that nothing is to commit, or that Kafka does not answer.
        """
        now = self._clock.monotonic()
        if self._deadline is not None:
            return 0.0 if now < self._deadline - COMMIT_TIMEOUT_S + _SOON_S else None
        return max(0.0, self._next - now) if self._offset_tracker.is_uncommitted() else None

    def send_if_due(self) -> None:
        """Send a commit, unless there is nothing new, or the last commit is too recent or has no answer yet."""
        now = self._clock.monotonic()
        if now < self._next or (self._deadline is not None and now < self._deadline):
            return
        marks = self._offset_tracker.to_commit()
        if not marks:
            return
        self._next = now + self._interval_s
        self._deadline = now + COMMIT_TIMEOUT_S

        def answered(_offsets: object, result: object) -> None:
            self._deadline = None
            if isinstance(result, BaseException):
                self._failed(result)
            else:
                self._failing = False
                self._offset_tracker.confirm(marks)
                self._on_answer()

        try:
            self._consumer.commit_async(kafka_offsets(marks), callback=answered)
        except FATAL:
            raise
        except kafka_errors.KafkaError as error:
            self._deadline = None
            self._failed(error)

    def send_last(self, marks: Mapping[Partition, Mark], timeout_s: float) -> None:
        """Send the commit before the consumer leaves its group, and wait for the answer for at most `timeout_s`."""
        try:
            try:
                self._consumer.commit(kafka_offsets(marks), timeout_ms=timeout_s * 1000)
            except kafka_errors.OffsetMetadataTooLargeError:
                offsets = kafka_offsets({partition: Mark(mark.offset) for partition, mark in marks.items()})
                self._consumer.commit(offsets, timeout_ms=timeout_s * 1000)
        except Exception as error:  # noqa: BLE001 - after any error the consumer must still leave the group
            logger.warning(
                "the last commit failed (%r); some records will be handled again",
                error,
                extra={"event": "commit_failed"},
            )

    def _failed(self, error: BaseException) -> None:
        self._next = max(self._next, self._clock.monotonic() + _AGAIN_S)
        if isinstance(error, kafka_errors.OffsetMetadataTooLargeError):
            shorten_metadata(self._offset_tracker)
            return
        # A commit fails during every rebalance. The rebalance listener or the next turn of the loop commits again.
        level = logging.DEBUG if self._failing else logging.WARNING
        if isinstance(error, kafka_errors.RebalanceInProgressError):
            level = logging.INFO
        else:
            self._failing = True
        logger.log(level, "a commit failed and is tried again: %r", error, extra={"event": "commit_failed"})


def shorten_metadata(offset_tracker: OffsetTracker) -> None:
    """Halve the longest metadata of later commits, because Kafka refused a commit's metadata as too long."""
    offset_tracker.max_metadata //= 2
    logger.warning(
        "Kafka refuses the metadata of a commit as too long (offset.metadata.max.bytes); it is cut to %d characters, "
        "and after a crash more records may be handled again",
        offset_tracker.max_metadata,
        extra={"event": "metadata_too_long"},
    )
