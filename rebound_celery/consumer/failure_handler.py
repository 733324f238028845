"""Makes the message for a failed record: a retry with its due time, or a dead letter."""

from __future__ import annotations

import logging
import socket
from functools import cached_property

import msgspec

from ..clock import Clock
from ..config import Settings
from ..errors import InvalidSettingError
from ..message import Message, Record, dead_destination_of, dead_letter_topic
from ..message.address import Address, KafkaAddress
from ..message.history import add_attempt
from ..policy import Drop, Failure, Retry, RetryPolicy, decide
from ..policy.decide import DRAW, Draw
from ..policy.failure import MAX_STACKTRACE, format_stack
from ..redaction import STACKTRACE
from .attempt import NotYet, attempt_of, first_delay_of
from .config import ConsumerConfig, Handler
from .dead_letter_limit import DeadLetterLimit
from .partition_tracker import Job

#: How many topics a consumer remembers the policy of.
_MOST_POLICIES = 1_024

logger = logging.getLogger(__name__)


class FailedRecord(msgspec.Struct, frozen=True, gc=False):
    """A record whose handler raised, and the message that must be stored for it.

    Attributes:
        job: the record with its tracker.
        message: the retry or the dead letter.
        due_ms: the due time of the message, in Unix milliseconds.
    """

    job: Job
    message: Message
    due_ms: int

    @property
    def dead(self) -> bool:
        return self.message.reason is not None


class FailureHandler:
    """Makes the messages for failed records by the policy and the addresses of one consumer. Threads may share it."""

    def __init__(
        self, config: ConsumerConfig, settings: Settings, limit: DeadLetterLimit | None = None, *, draw: Draw = DRAW
    ) -> None:
        self._config = config
        self._draw = draw
        self.limit = DeadLetterLimit(config) if limit is None else limit
        self._settings = settings
        self.redact = settings.redact
        self.wants_spans = settings.tracing
        self._group = config.group
        self._by = f"consumer {config.group}@{socket.gethostname()}"
        self._policies: dict[str, RetryPolicy] = {}
        self._retry_addresses: dict[str, KafkaAddress] = {}
        self._dead_addresses: dict[str, KafkaAddress] = {}

    def attempt(self, clock: Clock, *, delays: bool = True) -> Handler:
        """Return the function that makes an attempt of a record; see `attempt_of`."""
        policies = self._config.policies(self._settings)
        return attempt_of(self._config, policies, self.policy_for, self.limit, clock, delays=delays)

    def policy_for(self, record: Record) -> RetryPolicy:
        """Return the policy for a record. The topic that it was first read from decides."""
        topic = record.origin.topic
        policy = self._policies.get(topic)
        if policy is None:
            if len(self._policies) >= _MOST_POLICIES:
                # The topic may come from a header. So there may be any number of them.
                self._policies.clear()
            policy = self._policies[topic] = self._config.policy_for(self._settings, topic)
        return policy

    @cached_property
    def _brokers(self) -> str | None:
        """The brokers to name in an address. None means the app's own brokers, which every worker has."""
        brokers = self._config.brokers_for(self._settings)
        return None if set(brokers) == set(self._settings.kafka_brokers) else ",".join(brokers)

    def decide(self, job: Job, error: BaseException, now_ms: int) -> FailedRecord | None:
        """Return the retry or dead letter of a record whose handler raised `error` at `now_ms` (Unix milliseconds).

        None means that the record is dropped.

        Raises:
            DeadLetterLimitError: if it would be one dead letter too many. Nothing is logged or counted then.
        """
        record = job.record
        if isinstance(error, NotYet):
            return self._delay(job, error, now_ms)
        policy = self.policy_for(record)
        attempt, first_failed_at = record.attempt, record.first_failed_at
        if first_failed_at is None:
            first_failed_at = now_ms
        failure = self.redact.failure(Failure.of(error))
        decision = decide(
            policy, attempt, failure, first_failed_at_ms=first_failed_at, now_ms=now_ms, error=error, draw=self._draw
        )
        if isinstance(decision, Drop):
            _log_drop(record, decision.reason, failure, self._shown_stack(error))
            return None
        reason = None
        dead_address: Address = self._dead_address(record)
        if isinstance(decision, Retry):
            next_attempt, due_ms = decision.attempt, decision.due_ms
        else:
            self.limit.admit(record.origin, decision.reason)
            # Only a dead letter carries the stack trace, because formatting it takes longer than everything else here.
            stack = self.redact.text(format_stack(error), STACKTRACE, MAX_STACKTRACE)
            failure = Failure(failure.exception_class, failure.message, stack)
            next_attempt, due_ms, reason = attempt, now_ms, decision.reason
            dead_address = dead_destination_of(decision, dead_address)
        # `Message.failed` would return the same, but the message would be made twice. Arguments by position are ten
        # times as fast.
        message = Message(
            record.id,
            record.value,
            self._retry_address(record.topic),
            next_attempt,
            policy,
            record.key,
            record.headers,
            dead_address,
            reason,
            failure,
            add_attempt(record.history, attempt, now_ms, failure, self._by),
            self._group,
            record.origin,
            first_failed_at,
        )
        if reason is not None:
            message = self.redact.dead_letter(message)
        if logger.isEnabledFor(logging.INFO if reason is None else logging.WARNING):
            self._log(record, message, error, due_ms - now_ms)
        return FailedRecord(job, message, due_ms)

    def _delay(self, job: Job, delay: NotYet, now_ms: int) -> FailedRecord:
        """Return the message of the first delivery of a record, which the policy delays."""
        record = job.record
        message = Message(
            id=record.id,
            value=record.value,
            key=record.key,
            headers=record.headers,
            destination=self._retry_address(record.topic),
            dead_destination=self._dead_address(record),
            attempt=record.attempt,
            policy=self.policy_for(record),
            group=self._group,
            origin=record.origin,
        )
        logger.debug(
            "%s (message %s): %s", record.origin, record.id, delay, extra={"event": "delayed", **log_fields(record)}
        )
        return FailedRecord(job, message, now_ms + round(delay.delay_s * 1000))

    def delayed(self, job: Job, now_ms: int) -> FailedRecord | None:
        """Return the message of a record whose first delivery the policy delays; None if it does not."""
        delay_s = first_delay_of(job.record, self.policy_for(job.record), self._group)
        return self._delay(job, NotYet(delay_s), now_ms) if delay_s else None

    def unfailed(self, record: Record) -> Message:
        """Return the message of a record that was not handled yet, and that waits behind another one of its key."""
        return Message(
            record.id,
            record.value,
            self._retry_address(record.topic),
            record.attempt,
            self.policy_for(record),
            record.key,
            record.headers,
            self._dead_address(record),
            None,
            None,
            record.history,
            self._group,
            record.origin,
            record.first_failed_at,
            previous_span=record.previous_span,
        )

    def give_up(self, job: Job, reason: str, error: BaseException, now_ms: int) -> FailedRecord:
        """Return the dead letter of a record that cannot be given to the handler."""
        record = job.record
        failure = self.redact.failure(Failure.of(error, with_stack=True))
        message = Message(
            id=record.id,
            value=record.value,
            key=record.key,
            headers=record.headers,
            destination=self._retry_address(record.topic),
            dead_destination=self._dead_address(record),
            attempt=record.attempt,
            policy=self.policy_for(record),
            reason=reason,
            failure=failure,
            history=add_attempt(record.history, record.attempt, now_ms, failure, self._by),
            group=self._group,
            origin=record.origin,
            first_failed_at=now_ms,
        )
        return FailedRecord(job, self.redact.dead_letter(message), now_ms)

    def _log(self, record: Record, message: Message, error: BaseException, delay_ms: int) -> None:
        is_dead = message.reason is not None
        logger.log(
            logging.WARNING if is_dead else logging.INFO,
            "attempt %d/%d of %s (message %s) failed with %s; %s",
            record.attempt,
            message.policy.attempts,
            record.origin,
            record.id,
            message.failure,
            f"it becomes a dead letter: {message.reason}"
            if is_dead
            else f"attempt {message.attempt} follows in {delay_ms / 1000:g} s",
            extra={
                "event": "dead_letter" if is_dead else "retry",
                **log_fields(record),
                "destination": str(message.target),
                "reason": message.reason,
            },
            exc_info=self._shown_stack(error),
        )

    def _shown_stack(self, error: BaseException) -> BaseException | None:
        """Return the exception if its stack trace may be logged."""
        return error if logger.isEnabledFor(logging.DEBUG) and not self.redact.is_on else None

    def _retry_address(self, topic: str) -> KafkaAddress:
        address = self._retry_addresses.get(topic)
        if address is None:
            address = KafkaAddress(self._config.retry_topic or topic, self._brokers)
            self._retry_addresses[topic] = address
        return address

    def _dead_address(self, record: Record) -> KafkaAddress:
        origin = record.origin.topic
        address = self._dead_addresses.get(origin)
        if address is None:
            topic = self._config.dead_letter_topic
            if topic is None:
                suffix = self._settings.dead_letter_suffix
                try:
                    topic = dead_letter_topic(origin, suffix).topic
                except InvalidSettingError:
                    # The origin comes from a header, so it may be an invalid topic name.
                    return KafkaAddress(dead_letter_topic(record.topic, suffix).topic, self._brokers)
            address = self._dead_addresses[origin] = KafkaAddress(topic, self._brokers)
        return address


def _log_drop(record: Record, reason: str, failure: Failure, error: BaseException | None) -> None:
    logger.warning(
        "attempt %d of %s (message %s) failed with %s; it is dropped: %s",
        record.attempt,
        record.origin,
        record.id,
        failure,
        reason,
        extra={"event": "dropped", **log_fields(record), "reason": reason},
        exc_info=error,
    )


def log_fields(record: Record) -> dict[str, object]:
    """Return the fields that name a record in a structured log line."""
    key = None if record.key is None else record.key.decode("utf-8", "replace")[:100]
    return {
        "message_id": record.id,
        "origin": str(record.origin),
        "attempt": record.attempt,
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "key": key,
    }
