"""Finishes and commits the records of revoked partitions, and takes over assigned partitions, in a rebalance.

kafka-python calls these methods on its IO thread, while the loop's thread is blocked inside `poll` or `close`. The
handlers and the retry writer go on meanwhile. Blocking calls of the KafkaConsumer raise here, but `await` is allowed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import KafkaError, OffsetMetadataTooLargeError

from ..clock import SYSTEM_CLOCK, Clock
from .commits import kafka_offsets, shorten_metadata
from .key_queues import KeyQueues
from .offset_tracker import OffsetTracker
from .partition_tracker import PartitionTracker
from .positions import Positions

#: How long a rebalance waits for the handlers, in seconds. The whole group waits as long. A record that is not done by
#: then may be handled twice. Heartbeats go on meanwhile, so the session timeout has no effect here.
REVOKE_WAIT_S = 5.0

#: The time between two checks of the handlers' progress, in seconds.
_STEP_S = 0.02

logger = logging.getLogger(__name__)


class RebalanceListener(AsyncConsumerRebalanceListener):
    """Finishes and commits the started records of a revoked partition, and continues if it is assigned again.

    With the usual (eager) assignors, each rebalance revokes all partitions and assigns most of them again.
    kafka-python then keeps its position and does not return to the committed offset. So this class holds the records
    that were fetched but not started. If it dropped them, nobody would fetch them again, and a later commit would lose
    them.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        offset_tracker: OffsetTracker,
        key_queues: KeyQueues,
        positions: Positions,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._consumer = consumer
        self._offset_tracker = offset_tracker
        self._key_queues = key_queues
        self._positions = positions
        self._clock = clock
        # The loop cannot poll during this wait. A member that does not poll for max_poll_interval_ms leaves the group.
        self._wait_s = min(REVOKE_WAIT_S, consumer.config["max_poll_interval_ms"] / 2000)
        #: The group's generation and this member's id at the last revocation; None before the first one.
        self._revoked_in: tuple[int, str] | None = None
        #: The loop sets this at a stop. Held records are not started any more.
        self.draining = False
        #: The loop sets this after the last commit, because closing the consumer revokes the partitions once more.
        self.closing = False

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Wait for started records and commit. kafka-python calls this before other members get the partitions."""
        if self.closing:
            return
        self._revoked_in = self._generation()
        trackers = self._offset_tracker.trackers(revoked)
        if not trackers:
            return
        deadline = self._clock.monotonic() + self._wait_s
        for tracker in trackers:
            tracker.revoked = True
        self._hold(trackers)
        while self._offset_tracker.busy(trackers) and self._clock.monotonic() < deadline:
            await self._sleep()
        self._hold(trackers, everything=True)
        await self._commit(trackers, deadline + self._wait_s / 2)
        assigned, topics = self._consumer.assignment(), self._consumer.subscription() or ()
        for tracker in trackers:
            # A cooperative assignor revokes only partitions that another member gets. If such a partition is assigned
            # again, another consumer has had it.
            if TopicPartition(*tracker.partition) not in assigned or tracker.partition.topic not in topics:
                self._release(tracker)
        logger.info("revoked: %s", _names(revoked), extra={"event": "revoked", "partitions": _names(revoked)})

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Continue with partitions that are assigned again. The loop asks for the committed offsets of the others."""
        # If this member missed a generation or has a new id, another consumer may have had the partitions. Then the
        # trackers are out of date, and kafka-python's positions too.
        number, member = self._generation()
        # The number may stay the same: Tansu keeps it when a member joins again and nothing has changed.
        is_next = self._revoked_in in ((number - 1, member), (number, member))
        self._positions.keep(self._consumer.assignment())
        for tracker in self._offset_tracker.trackers():
            if not tracker.revoked:
                continue
            partition = TopicPartition(*tracker.partition)
            if partition not in assigned:
                self._release(tracker)
            elif is_next:
                self._go_on(partition, tracker)
            else:
                self._positions.ask_for(partition, tracker.low_water())
                self._release(tracker)
        # kafka-python may assign a partition twice without revoking it. Such a partition has a tracker already.
        tracked: set[tuple[str, int]] = {tracker.partition for tracker in self._offset_tracker.trackers()}
        for partition in assigned:
            if partition not in tracked:
                self._positions.ask_for(partition)
                # No record may be handled before the committed offset is known.
                self._consumer.pause(partition)
        logger.info("assigned: %s", _names(assigned), extra={"event": "assigned", "partitions": _names(assigned)})

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """Release partitions that other members may have already."""
        self._positions.discard(lost)
        unfinished = sum(self._release(tracker) for tracker in self._offset_tracker.trackers(lost))
        logger.warning(
            "lost %s: Kafka has removed this consumer from its group; %d unfinished records will be handled again",
            _names(lost),
            unfinished,
            extra={"event": "lost", "partitions": _names(lost)},
        )

    def _go_on(self, partition: TopicPartition, tracker: PartitionTracker) -> None:
        if tracker.next_offset is not None:
            # kafka-python should have kept this position. It is set anyway, because a wrong position loses records.
            self._consumer.seek(partition, tracker.next_offset)
        tracker.revoked = False
        if not self.draining:
            held, tracker.held = tracker.held, []
            self._key_queues.add(held)

    def _hold(self, trackers: list[PartitionTracker], *, everything: bool = False) -> None:
        removed = self._key_queues.remove_waiting(trackers, everything=everything)
        for tracker in trackers:
            tracker.held = sorted(tracker.held + removed.get(tracker.partition, []), key=lambda job: job.record.offset)

    def _generation(self) -> tuple[int, str]:
        metadata = self._consumer.group_metadata()
        return metadata.generation_id, metadata.member_id

    def _release(self, tracker: PartitionTracker) -> int:
        return release(self._offset_tracker, self._key_queues, tracker)

    def _sleep(self) -> Any:
        # kafka-python has an event loop of its own, and the loop's timer has no public name. A Future that another
        # thread completes would not wake the loop.
        return self._consumer._net.sleep(_STEP_S)  # noqa: SLF001 # of kafka-python

    async def _commit(self, trackers: list[PartitionTracker], deadline: float) -> None:
        while marks := self._offset_tracker.to_commit(trackers):
            future = self._consumer.commit_async(kafka_offsets(marks))
            while not future.is_done and self._clock.monotonic() < deadline:
                await self._sleep()
            # While the coordinator is unknown, this is the future of the lookup. Its value is then the coordinator.
            if future.succeeded() and future.value is None:
                self._offset_tracker.confirm(marks)
                return
            if future.failed() and isinstance(future.exception, OffsetMetadataTooLargeError):
                shorten_metadata(self._offset_tracker)
                continue
            is_final = future.failed() and not future.retriable()
            if is_final or self._clock.monotonic() >= deadline:
                logger.warning(
                    "the finished records of %s could not be committed before the rebalance (%s); they will be handled "
                    "again",
                    _names(marks),
                    future.exception or KafkaError("no answer in time"),
                    extra={"event": "commit_failed"},
                )
                return
            await self._sleep()


def release(offset_tracker: OffsetTracker, key_queues: KeyQueues, tracker: PartitionTracker) -> int:
    """Stop tracking a partition. Return the number of started records that are not finished or not stored."""
    removed = key_queues.remove_waiting([tracker], everything=True)
    not_started = len(removed.get(tracker.partition, [])) + len(tracker.held)
    tracker.held = []
    return offset_tracker.release(tracker, not_started)


def _names(partitions: Collection[tuple[str, int]]) -> str:
    return ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions)) or "none"
