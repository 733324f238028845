"""Keeps the order of each key while one of its records is tried again (`ordering="key"`).

A record whose attempt fails becomes the head of its key's chain in Redis. Later records of the key go into the chain
when their turn comes, and their offsets are committed. When the head is delivered to this consumer again and succeeds,
Redis hands out the records behind it, some at a time. `docs/guarantees.md` says what happens at a crash.

A record asks Redis before it is handled if its key is blocked, or if rebound has delivered it. All others are handled
at once.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import ReboundError
from ..message import Message, Record
from ..message.place import place_of
from ..registry import ChainAnswer, ChainChange, RetryScheduler
from .attempt import Handled
from .blocked_keys import BlockedKeys, Key, key_of, key_of_job
from .chain_writer import ChainOperation, ChainWriter
from .config import ConsumerConfig
from .failure_handler import FailedRecord, FailureHandler
from .key_queues import KeyQueues
from .offset_tracker import OffsetTracker
from .partition_tracker import Job, Partition
from .taken_job import TakenJob, record_of

#: How many records behind a head are taken at once: the first time, and at most. The number doubles as long as all of
#: them are handled in time.
FIRST_WANT = 8
MOST_WANT = 64

#: How long records are handled before Redis hears of it, in seconds. A crash repeats what it has not heard of.
TELL_EVERY_S = 0.02

#: How often the blocked keys are read again, in seconds.
LOAD_EVERY_S = 30.0

logger = logging.getLogger(__name__)


class Ordering:
    """The chains of a consumer's keys.

    Args:
        config: the consumer's configuration.
        scheduler: the Rebound of the app.
        offset_tracker: the tracker of the records in flight.
        key_queues: the queues of the handler threads.
        failure_handler: makes the messages of failed records.
        wake: the event that wakes the loop.
    """

    def __init__(
        self,
        config: ConsumerConfig,
        scheduler: RetryScheduler,
        offset_tracker: OffsetTracker,
        key_queues: KeyQueues,
        failure_handler: FailureHandler,
        wake: threading.Event,
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._holds = config.after_dead_letter == "hold"
        self._chains = scheduler.chains
        self._offset_tracker = offset_tracker
        self._key_queues = key_queues
        self._failure_handler = failure_handler
        self._clock = clock
        self._blocked = BlockedKeys(config.group, scheduler.chains.names)
        self._tracker = offset_tracker.track_taken()
        #: The first message of each job that is not finished: chain -> place and attempt.
        self._held: dict[str, tuple[int, int]] = {}
        self._hold_s = scheduler.settings.lease
        self._is_stopping = False
        self._stopped = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="rebound-chain-keeper", daemon=True)
        self.writer = ChainWriter(scheduler, offset_tracker, wake, self._written, self._dropped, clock=clock)
        self._is_unreadable = False

    def start(self) -> None:
        """Start the thread that keeps what this consumer has taken."""
        self._keeper.start()

    def stop_taking(self) -> None:
        """Take nothing more from chains: what follows a message that has ended is delivered to another consumer."""
        self._is_stopping = True

    def close(self) -> None:
        """End the thread, and give back what is taken and not finished: it is delivered at once."""
        self._stopped.set()
        if held := list(self._held.items()):
            try:
                self._chains.change([ChainChange("return", chain, *head) for chain, head in held])
            except ReboundError as error:
                logger.warning(
                    "what was taken from %d chains is delivered later: %s",
                    len(held),
                    error,
                    extra={"event": "chains_not_returned"},
                )

    def load(self, partitions: Sequence[tuple[str, int]]) -> bool:
        """Read the blocked keys of newly assigned partitions. Return False if Redis is away: ask again.

        This must happen after the committed offset was read: then what the earlier owner has committed is in Redis.
        """
        try:
            self._blocked.load(Partition(*partition) for partition in partitions)
        except ReboundError as error:
            if not self._is_unreadable:
                logger.error(  # noqa: TRY400 - the error's text says everything
                    "the keys that wait in order cannot be read, and their partitions wait: %s",
                    error,
                    extra={"event": "chains_unreadable"},
                )
            self._is_unreadable = True
            return False
        self._is_unreadable = False
        return True

    def sets_aside(self, job: Job) -> bool:
        """Give a record to its chain if it may have to wait. Return whether it was given, and is not handled now."""
        record = job.record
        origin = record.origin
        if origin.offset != record.offset or origin.partition != record.partition or origin.topic != record.topic:
            # Rebound has delivered it, so it may be the head of a chain, or a copy.
            key = key_of(record)
            self._blocked.enter(key)
        elif (
            self._blocked.is_empty()
            or self._blocked.is_free(key := key_of_job(job))
            or not self._blocked.enter_if_blocked(key)
        ):
            return False
        delayed = self._failure_handler.delayed(job, self._clock.now_ms())
        if delayed is not None:
            # It is not due yet, even if nothing is before it.
            self._put_failed(delayed, key)
            return True
        message = self._failure_handler.unfailed(record)
        change = ChainChange(
            "arrive", self._blocked.chain_name(key), _place_of(record), record.attempt, message, 0, self._holds
        )
        self.writer.put(ChainOperation(job, message, 0, key, (change,)))
        return True

    def failed(self, failed: FailedRecord) -> None:
        """Store a record that was handled without asking Redis, and that has failed. Its key is blocked from now on.

        The same is done for a record that was not handled, because the policy delays its first delivery.
        """
        record = failed.job.record
        if record.key is None or (failed.dead and not self._holds):
            self.writer.put(failed)
            return
        key = key_of(record)
        self._blocked.enter(key)
        self._put_failed(failed, key)

    def _put_failed(self, failed: FailedRecord, key: Key) -> None:
        change = self._ended(self._blocked.chain_name(key), failed)
        self.writer.put(ChainOperation(failed.job, failed.message, failed.due_ms, key, (change,)))

    def run(self, job: TakenJob, call: Callable[[Job], Handled | FailedRecord]) -> None:
        """Handle messages that are taken from a chain, and tell Redis what became of them.

        Args:
            job: the messages.
            call: calls the handler. It returns how that has ended.
        """
        chain = self._blocked.chain_name(job.key)
        began = self._clock.monotonic()
        handled: list[ChainChange] = []
        failed: FailedRecord | None = None
        dropped = 0
        for record in job.records:
            if handled and self._clock.monotonic() - began > TELL_EVERY_S:
                break
            outcome = call(job if record is job.record else Job(record, job.tracker))
            if isinstance(outcome, FailedRecord):
                failed = outcome
                break
            dropped += outcome is Handled.DROPPED
            handled.append(ChainChange("finish", chain, _place_of(record), record.attempt))
        is_whole = len(handled) == len(job.records)
        want = min(2 * job.want, MOST_WANT) if is_whole else max(1, len(handled))
        # The last one comes first: what is behind a failed message must not be handed out, and the head ends last.
        changes = handled[::-1]
        if failed is not None:
            changes.insert(0, self._ended(chain, failed))
        changes[-1] = replace(changes[-1], want=0 if self._is_stopping else want)
        last = failed or FailedRecord(job, job.messages[0], 0)
        has_failed = failed is not None
        self.writer.put(ChainOperation(job, last.message, last.due_ms, job.key, tuple(changes), has_failed, dropped))

    def _ended(self, chain: str, failed: FailedRecord) -> ChainChange:
        """What becomes of a message whose attempt has failed."""
        record, message = failed.job.record, failed.message
        place = _place_of(record)
        if failed.dead:
            return ChainChange("finish", chain, place, record.attempt, message, failed.due_ms, self._holds)
        return ChainChange("wait", chain, place, message.attempt, message, failed.due_ms, self._holds)

    # the writer's thread

    def _written(self, done: Sequence[tuple[ChainOperation, Sequence[ChainAnswer]]]) -> None:
        """Act on the answers of Redis to some operations."""
        self._offset_tracker.stored(
            [(op.job, op.dead) for op, _ in done if not isinstance(op.job, TakenJob) and op.changes[0].do != "arrive"]
        )
        self._offset_tracker.set_aside([op.job for op, _ in done if op.changes[0].do == "arrive"])
        for operation, answers in done:
            self._answered(operation, answers)

    def _answered(self, operation: ChainOperation, answers: Sequence[ChainAnswer]) -> None:
        job, key, answer = operation.job, operation.key, answers[-1]
        if isinstance(job, TakenJob):
            self._held.pop(self._blocked.chain_name(key), None)
            dead = operation.has_failed and operation.dead
            self._offset_tracker.finish_taken(
                self._tracker,
                succeeded=len(answers) - operation.has_failed - operation.dropped,
                retried=int(operation.has_failed and not dead),
                dead=int(dead),
                dropped=operation.dropped,
            )
            records = [record_of(message) for message in answer.taken]
            if records:
                self._take(key, records, answer.taken, operation.changes[-1].want)
                return
        elif operation.changes[0].do == "arrive" and answer.outcome == "taken":
            self._take(key, [job.record], [operation.message], FIRST_WANT // 2)
            return
        self._blocked.leave(key, is_open=answer.is_open)

    def _take(self, key: Key, records: Sequence[Record], messages: Sequence[Message], want: int) -> None:
        self._held[self._blocked.chain_name(key)] = _place_of(records[0]), records[0].attempt
        job = TakenJob(key, records, messages, self._tracker, want)
        if self._offset_tracker.take(self._tracker):
            self._key_queues.add([job])

    def _dropped(self, failed: FailedRecord) -> None:
        """Forget an operation whose partition this consumer has no more. The next owner reads the record again."""
        if isinstance(failed, ChainOperation):
            self._blocked.leave(failed.key, is_open=True)

    # the keeper's thread

    def _keep(self) -> None:
        next_load = self._clock.monotonic() + LOAD_EVERY_S
        while not self._stopped.wait(self._hold_s / 3):
            try:
                if held := list(self._held.items()):
                    self._chains.change([ChainChange("renew", chain, *head) for chain, head in held])
                if self._clock.monotonic() >= next_load:
                    next_load = self._clock.monotonic() + LOAD_EVERY_S
                    self._load_again()
            except ReboundError as error:
                # The writer's thread meets the same, and says so.
                logger.debug("chains cannot be renewed: %s", error)
            except Exception as error:  # noqa: BLE001 - the thread goes on
                extra: dict[str, object] = {"event": "chains_not_renewed"}
                self._failure_handler.redact.log(logger, "chains cannot be renewed", error=error, extra=extra)

    def _load_again(self) -> None:
        """Forget keys that others have freed."""
        if not self._blocked.is_empty():
            trackers = self._offset_tracker.trackers()
            self._blocked.load_again(tracker.partition for tracker in trackers if tracker is not self._tracker)


def _place_of(record: Record) -> int:
    return place_of(record.origin.offset, record.id)
