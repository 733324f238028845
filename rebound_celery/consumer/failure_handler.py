"""From a failed record to the message that is stored: a retry with its due time, or a dead letter."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

from ..config import Settings
from ..errors import InvalidSettingError
from ..message import Failure, Message, Record, dead_letter_topic
from ..message.address import KafkaAddress
from ..policy import DeadLetter, RetryPolicy
from .config import ConsumerConfig
from .offset_tracker import Job

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be stored for a failed record."""

    job: Job
    message: Message
    due_ms: int

    @property
    def dead(self) -> bool:
        return self.message.reason is not None


class FailureHandler:
    """Decides what follows a failed attempt; the same for all records of a consumer. Threads may share it."""

    def __init__(self, config: ConsumerConfig, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._retry_addresses: dict[str, KafkaAddress] = {}
        self._dead_addresses: dict[str, KafkaAddress] = {}

    @cached_property
    def policy(self) -> RetryPolicy:
        return self._config.policy_for(self._settings)

    @cached_property
    def _brokers(self) -> str | None:
        """Named in an address only where they are not the app's own: the worker then connects to them as well."""
        brokers = self._config.brokers_for(self._settings)
        return None if set(brokers) == set(self._settings.kafka_brokers) else ",".join(brokers)

    def decide(self, job: Job, error: BaseException, now_ms: int) -> Verdict:
        """What follows when the handler raised `error` at `now_ms` (Unix milliseconds)."""
        record = job.record
        decision = self.policy.decide(record.attempt, now_ms)
        is_dead = isinstance(decision, DeadLetter)
        failure = _describe(error, with_stack=is_dead)
        message = self._message(
            record,
            now_ms,
            attempt=record.attempt if isinstance(decision, DeadLetter) else decision.attempt,
            reason=decision.reason if isinstance(decision, DeadLetter) else None,
            failure=failure,
        )
        due_ms = now_ms if isinstance(decision, DeadLetter) else decision.due_ms
        level = logging.WARNING if is_dead else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "attempt %d/%d of %s failed with %s: %s",
                record.attempt,
                self.policy.attempts,
                record.origin,
                failure.exception_class,
                message.reason or f"retry in {(due_ms - now_ms) / 1000:g} s",
                extra={"event": "dead_letter" if is_dead else "retry", **log_fields(record)},
            )
        return Verdict(job, message, due_ms)

    def bury(self, job: Job, reason: str, error: BaseException, now_ms: int) -> Verdict:
        """A dead letter at once, for a record that no handler can be given."""
        record = job.record
        failure = _describe(error, with_stack=True)
        message = self._message(record, now_ms, attempt=record.attempt, reason=reason, failure=failure)
        return Verdict(job, message, now_ms)

    def _message(self, record: Record, now_ms: int, *, attempt: int, reason: str | None, failure: Failure) -> Message:
        return Message(
            id=record.id,
            value=record.value,
            key=record.key,
            headers=record.headers,
            destination=self._retry_address(record),
            dead_destination=self._dead_address(record),
            attempt=attempt,
            max_retries=self.policy.max_retries,
            base_delay=self.policy.base_delay,
            reason=reason,
            failure=failure,
            group=self._config.group,
            origin=record.origin,
            first_failed_at=now_ms if record.first_failed_at is None else record.first_failed_at,
        )

    def _retry_address(self, record: Record) -> KafkaAddress:
        topic = self._config.retry_topic or record.topic
        address = self._retry_addresses.get(topic)
        if address is None:
            address = self._retry_addresses[topic] = KafkaAddress(topic, self._brokers)
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
                    # The origin is read from a header, so it may be anything.
                    return KafkaAddress(dead_letter_topic(record.topic, suffix).topic, self._brokers)
            address = self._dead_addresses[origin] = KafkaAddress(topic, self._brokers)
        return address


def _describe(error: BaseException, *, with_stack: bool) -> Failure:
    try:
        return Failure.of(error, with_stack=with_stack)
    except Exception:  # noqa: BLE001 - a user's exception may break whatever looks at it, and the retry must not be lost
        return Failure(type(error).__name__, "(it could not be described)")


def log_fields(record: Record) -> dict[str, object]:
    """The fields that name a record in a structured log line."""
    key = None if record.key is None else record.key.decode("utf-8", "replace")[:100]
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset, "key": key}
