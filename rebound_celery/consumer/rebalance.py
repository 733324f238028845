"""What happens when partitions come and go.

kafka-python calls these methods on its IO thread while the loop's thread is blocked inside `poll` or `close`; meanwhile
handlers go on, and the retry_writer goes on storing. Blocking calls of the consumer raise here; awaiting is allowed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from .key_queues import KeyQueues
from .offset_tracker import OffsetTracker, Partition, PartitionTracker

#: How long a rebalance waits for records that a handler has begun, in seconds; the whole group waits that long with it.
#: What is unfinished then may be handled twice. Heartbeats go on meanwhile: the session timeout does not matter here.
REVOKE_WAIT_S = 5.0

#: How often it looks whether they are done.
_STEP_S = 0.02

logger = logging.getLogger(__name__)


def kafka_offsets(marks: dict[Partition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    """Marks as kafka-python wants them."""
    return {TopicPartition(*partition): OffsetAndMetadata(mark, "", -1) for partition, mark in marks.items()}


class RebalanceListener(AsyncConsumerRebalanceListener):
    """Finishes and commits what is begun before a partition is given away, and goes on with it if it comes back.

    With the usual (eager) assignors every rebalance revokes all partitions and mostly gives them back. kafka-python
    then keeps its position in them: it does not go back to the committed offset. So what was fetched and not begun is
    held, not dropped; dropped records would never be fetched again, and a later commit would pass over them.
    """

    def __init__(
        self, consumer: KafkaConsumer, offset_tracker: OffsetTracker, key_queues: KeyQueues, max_poll_interval_s: float
    ) -> None:
        self._consumer = consumer
        self._offset_tracker = offset_tracker
        self._key_queues = key_queues
        # The loop cannot poll meanwhile; a member that does not poll for max_poll_interval_ms leaves the group.
        self._wait_s = min(REVOKE_WAIT_S, max_poll_interval_s / 2)
        #: The generation of the group, and this member's id in it, when partitions were last revoked.
        self._revoked_in: tuple[int, str] | None = None
        #: What was revoked then. kafka-python keeps its position in those that come back.
        self._revoked: set[TopicPartition] = set()
        #: Partitions whose position in kafka-python is not to be trusted, with the mark that they had here, if any. The
        #: loop asks Kafka where to go on, and takes them out.
        self.stale_positions: dict[TopicPartition, int | None] = {}
        #: Set by the loop at a stop: what is held is not begun any more.
        self.draining = False
        #: Set by the loop when all is done: closing revokes once more.
        self.closing = False

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if self.closing:
            return
        self._revoked_in, self._revoked = self._generation(), set(revoked)
        trackers = self._offset_tracker.trackers(revoked)
        if not trackers:
            return
        deadline = time.monotonic() + self._wait_s
        for tracker in trackers:
            tracker.leaving = True
        self._hold(trackers)
        while self._offset_tracker.busy(trackers) and time.monotonic() < deadline:
            await self._sleep()
        self._hold(trackers, everything=True)
        await self._commit(trackers, deadline + self._wait_s / 2)
        assigned, topics = self._consumer.assignment(), self._consumer.subscription() or ()
        for tracker in trackers:
            # A cooperative assignor revokes what is already gone; if that comes back, it is from another consumer.
            if TopicPartition(*tracker.partition) not in assigned or tracker.partition.topic not in topics:
                self._forget(tracker)
        logger.info("revoked: %s", _names(revoked), extra={"event": "revoked", "partitions": _names(revoked)})

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        # Had there been a generation without this member, or with it under another name, then someone else may have
        # had these partitions: what is known of them is out of date, and so is the position that kafka-python keeps.
        number, member = self._generation()
        # (Tansu keeps the number when a member joins again and nothing has changed.)
        is_next = self._revoked_in in ((number - 1, member), (number, member))
        self.stale_positions = {
            partition: mark for partition, mark in self.stale_positions.items() if partition in assigned
        }
        if not is_next:
            # Also those of which nothing was fetched here.
            self.stale_positions |= dict.fromkeys(self._revoked.intersection(assigned) - self.stale_positions.keys())
        for tracker in self._offset_tracker.trackers():
            if not tracker.leaving:
                continue
            partition = TopicPartition(*tracker.partition)
            if partition not in assigned:
                self._forget(tracker)
                continue
            if not is_next:
                self.stale_positions[partition] = tracker.low_water() or 0
                self._forget(tracker)
                continue
            if tracker.next_offset is not None:
                # Where kafka-python already is, as it keeps its position; said aloud, since all depends on it.
                self._consumer.seek(partition, tracker.next_offset)
            tracker.leaving = False
            if not self.draining:
                held, tracker.held = tracker.held, []
                self._key_queues.add(held)
        logger.info("assigned: %s", _names(assigned), extra={"event": "assigned", "partitions": _names(assigned)})

    async def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self.stale_positions = {
            partition: mark for partition, mark in self.stale_positions.items() if partition not in lost
        }
        let_go = sum(self._forget(tracker) for tracker in self._offset_tracker.trackers(lost))
        logger.warning(
            "lost %s: this consumer was away for too long; %d unfinished records will be handled again",
            _names(lost),
            let_go,
            extra={"event": "lost", "partitions": _names(lost)},
        )

    def _hold(self, trackers: list[PartitionTracker], *, everything: bool = False) -> None:
        taken = self._key_queues.withdraw(trackers, everything=everything)
        for tracker in trackers:
            tracker.held = sorted(tracker.held + taken.get(tracker.partition, []), key=lambda job: job.record.offset)

    def _generation(self) -> tuple[int, str]:
        metadata = self._consumer.group_metadata()
        return metadata.generation_id, metadata.member_id

    def _forget(self, tracker: PartitionTracker) -> int:
        return forget(self._offset_tracker, self._key_queues, tracker)

    def _sleep(self) -> Any:
        # kafka-python has its own event loop, and its timer has no public name. (A Future completed by another thread
        # would do, but that does not wake the loop.)
        return self._consumer._net.sleep(_STEP_S)  # noqa: SLF001

    async def _commit(self, trackers: list[PartitionTracker], deadline: float) -> None:
        while marks := self._offset_tracker.to_commit(trackers):
            future = self._consumer.commit_async(kafka_offsets(marks))
            while not future.is_done and time.monotonic() < deadline:
                await self._sleep()
            # While the coordinator is unknown, the future is that of the lookup, and its value is the coordinator.
            if future.succeeded() and future.value is None:
                self._offset_tracker.confirm(marks)
                return
            final = future.failed() and not future.retriable()
            if final or time.monotonic() >= deadline:
                logger.warning(
                    "what was done in %s could not be committed before it was given away (%s); it will be done again",
                    _names(marks),
                    future.exception or KafkaError("no answer in time"),
                    extra={"event": "commit_failed"},
                )
                return
            await self._sleep()


def forget(offset_tracker: OffsetTracker, key_queues: KeyQueues, tracker: PartitionTracker) -> int:
    """Let go of a partition; returns how many begun records are left unfinished or unstored."""
    not_begun = len(key_queues.withdraw([tracker], everything=True).get(tracker.partition, [])) + len(tracker.held)
    tracker.held = []
    return offset_tracker.forget(tracker, not_begun)


def _names(partitions: Collection[tuple[str, int]]) -> str:
    return ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions)) or "none"
