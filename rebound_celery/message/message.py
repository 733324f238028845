"""The message: a value with its destination, its attempt and its history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from ..caching import cached
from ..policy import DeadLetter, Failure, Retry, RetryPolicy
from .address import DEAD_SET, Address, KafkaAddress
from .history import History, add_attempt
from .record import Headers, Origin


class Message(msgspec.Struct, frozen=True, gc=False):
    """A value that waits in the schedule and is then delivered, with its destination, its attempt and its history.

    Attributes:
        id: the same over all attempts.
        value, key, headers: kept byte for byte. A value or key of None is kept as None.
        destination: the address of a retry.
        dead_destination: the address of the dead letter.
        attempt: the attempt that the next delivery begins; on a dead letter, the last attempt, which failed.
        policy: the retry policy. The message carries it, so that any worker can decide what follows a failed delivery.
        reason: the reason of a dead letter, for example a constant of `policy`; None if it is not a dead letter.
        failure: the failure of the last attempt; None if it is not known.
        history: the attempts so far, the newest last; at most ten.
        group: the consumer group that the retry is for; None means every group.
        origin: the record that it was first read from; None if it was not read from Kafka.
        first_failed_at: the time of the first failure in Unix milliseconds; None if it is not known.
        content_type: the content type for an HTTP delivery, if its headers have none; None means bytes.
        source, client_id: free texts of the caller, delivered as headers; None sends no such header.
        unknown: fields that a later version wrote. They have no effect here and are written back.
        previous_span: the span of the attempt before, as a W3C `traceparent`; None if it was not traced.
    """

    # Callers that make many messages give these by position, which takes a tenth of the time. So their order counts.
    id: str
    value: bytes | None
    destination: Address
    attempt: int
    policy: RetryPolicy
    key: bytes | None = None
    headers: Headers = ()
    dead_destination: Address = DEAD_SET
    reason: str | None = None
    failure: Failure | None = None
    history: History = ()
    group: str | None = None
    origin: Origin | None = None
    first_failed_at: int | None = None
    content_type: str | None = None
    source: str | None = None
    client_id: str | None = None
    unknown: Mapping[str, Any] = {}
    previous_span: str | None = None

    @property
    def target(self) -> Address:
        """The address of the next delivery."""
        return self.destination if self.reason is None else self.dead_destination

    @property
    def task_id(self) -> str:
        """The id of the Celery task that delivers this attempt. A message that is stored twice has one task."""
        return f"{self.id}:{self.attempt if self.reason is None else 'dead'}"

    def failed(self, failure: Failure | None, decision: Retry | DeadLetter, *, now_ms: int, by: str) -> Message:
        """Return the message after its attempt has failed: for the next attempt, or as a dead letter.

        Args:
            failure: the failure; None if it is not known.
            decision: the result of `policy.decide`, which is not to drop the message.
            now_ms: the time of the failure, in Unix milliseconds.
            by: the process that made the attempt; see `PastAttempt`.
        """
        if isinstance(decision, Retry):
            attempt, reason, dead_destination = decision.attempt, None, self.dead_destination
        else:
            attempt, reason = self.attempt, decision.reason
            dead_destination = dead_destination_of(decision, self.dead_destination)
        return Message(
            self.id,
            self.value,
            self.destination,
            attempt,
            self.policy,
            self.key,
            self.headers,
            dead_destination,
            reason,
            failure,
            add_attempt(self.history, self.attempt, now_ms, failure, by),
            self.group,
            self.origin,
            now_ms if self.first_failed_at is None else self.first_failed_at,
            self.content_type,
            self.source,
            self.client_id,
            self.unknown,
            self.previous_span,
        )

    def dead(self, reason: str, failure: Failure | None = None) -> Message:
        """Return the message as a dead letter. No attempt is added to its history."""
        return replace(self, reason=reason, failure=failure or self.failure)

    def __str__(self) -> str:
        """One line without payload, for Flower, logs and events.

        It leaves out the id: all of these have it already, and Flower cuts the line after some forty characters.
        """
        where = f"{origin} " if (origin := self.origin or self.source) else ""
        if self.reason is not None:
            return f"{where}dead after attempt {self.attempt}: {self.reason} -> {self.target}"
        return f"{where}attempt {self.attempt}/{self.policy.attempts} -> {self.destination}"


def dead_destination_of(decision: DeadLetter, usual: Address) -> Address:
    """Return where a dead letter goes: to the topic of the decision, or else where it goes usually."""
    if decision.topic is None:
        return usual
    return KafkaAddress(decision.topic, usual.brokers if isinstance(usual, KafkaAddress) else None)


@cached
def dead_letter_topic(topic: str, suffix: str, brokers: str | None = None) -> KafkaAddress:
    """Return the dead letter topic of `topic`, cut to the length that Kafka allows."""
    return KafkaAddress(topic[: 249 - len(suffix)] + suffix, brokers)
