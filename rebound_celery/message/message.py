"""The message: a value, its destination, its attempt and its history, from one attempt to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from ..caching import cached
from ..policy import Decision, Failure, Retry, RetryPolicy
from .address import DEAD_SET, Address, KafkaAddress
from .history import History, add_attempt
from .record import Headers, Origin


class Message(msgspec.Struct, frozen=True, gc=False):
    """What waits, and is delivered: the caller's data, where it goes, and how far it has come.

    Attributes:
        id: stable over all attempts.
        value, key, headers: kept byte for byte.
        destination: where a retry goes.
        dead_destination: where it goes once it is given up.
        attempt: the attempt that the next delivery begins; on a dead letter, the last one that failed.
        policy: so that any worker can decide what comes after a failed delivery.
        reason: None while it is alive; on a dead letter why it was given up: a constant of `policy`.
        failure: what the last attempt failed with.
        history: the attempts so far, the newest last; at most ten.
        group: the consumer group that the retry is for.
        origin: where it was first read.
        first_failed_at: Unix milliseconds.
        content_type: what an HTTP receiver is told; None means what the headers say, or bytes.
        source, client_id: free words of the caller's that travel along.
        unknown: fields that a later version wrote. They have no effect here and are written back.
    """

    # Their order counts where many messages are made: arguments by position cost a tenth of those by name.
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

    @property
    def target(self) -> Address:
        """Where the next delivery goes."""
        return self.destination if self.reason is None else self.dead_destination

    @property
    def task_id(self) -> str:
        """The id of the Celery task that delivers this attempt: derived, so that storing twice is one task."""
        return f"{self.id}:{self.attempt if self.reason is None else 'dead'}"

    def failed(self, failure: Failure | None, decision: Decision, *, now_ms: int, by: str) -> Message:
        """Return what the message is after its attempt has failed: the next attempt, or a dead letter.

        Args:
            failure: why it failed; None where nobody says.
            decision: what `policy.decide` says.
            now_ms: when, in Unix milliseconds.
            by: who tried; see `PastAttempt`.
        """
        if isinstance(decision, Retry):
            attempt, reason = decision.attempt, None
        else:
            attempt, reason = self.attempt, decision.reason
        return Message(
            self.id,
            self.value,
            self.destination,
            attempt,
            self.policy,
            self.key,
            self.headers,
            self.dead_destination,
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
        )

    def dead(self, reason: str, failure: Failure | None = None) -> Message:
        """Return the same message, given up outside of an attempt."""
        return replace(self, reason=reason, failure=failure or self.failure)

    def __str__(self) -> str:
        """One line without payload, for Flower, logs and events."""
        where = str(self.origin or self.source or self.id)
        if self.reason is not None:
            return f"{where} dead after attempt {self.attempt}: {self.reason} -> {self.target}"
        return f"{where} attempt {self.attempt}/{self.policy.attempts} -> {self.target}"

    def to_wire(self) -> dict[str, str]:
        """Return the message as JSON can hold it, for a task whose arguments are JSON."""
        from .codec import to_json

        return to_json(self)

    @classmethod
    def from_wire(cls, wire: object) -> Message:
        """Read what `to_wire` wrote.

        Raises:
            WireFormatError: if it is damaged.
            UnknownVersionError: if a later version wrote it.
        """
        from .codec import from_json

        return from_json(wire)


@cached
def dead_letter_topic(topic: str, suffix: str, brokers: str | None = None) -> KafkaAddress:
    """Return the dead letter topic of `topic`, cut to the length that Kafka allows."""
    return KafkaAddress(topic[: 249 - len(suffix)] + suffix, brokers)
