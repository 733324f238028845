"""Takes records that failed in a consumer that is not rebound's: stores a retry or a dead letter of each."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypedDict, Unpack, cast

import msgspec

from .. import tracing
from ..clock import Clock
from ..config import Settings, parse_brokers
from ..errors import InvalidSettingError
from ..message import Message, Record, dead_letter_topic
from ..message.address import KafkaAddress
from ..policy import DeadLetter, Drop, Failure, Retry, RetryPolicy, decide
from .reading import UNKNOWN, read_record

logger = logging.getLogger(__name__)


class Handled(msgspec.Struct, frozen=True):
    """What became of a record that was handed over.

    Attributes:
        then: "retry", "dead-letter" or "drop". Of a dropped record nothing is kept.
        id: the message's id, the same over all attempts.
        attempt: the attempt that follows; of a dead letter or a dropped record, the one that failed.
        due_ms: when it is delivered, in Unix milliseconds.
        reason: of a dead letter, or why the record is dropped; None for a retry.
        destination: where it goes, such as `kafka:orders`; empty if it is dropped.
    """

    then: Literal["retry", "dead-letter", "drop"]
    id: str
    attempt: int
    due_ms: int
    reason: str | None = None
    destination: str = ""


class FailureOptions(TypedDict, total=False):
    """The options of `handle_failure`.

    Attributes:
        group: the consumer group that the retry is for. rebound's consumers of other groups skip it. None means every
            group that reads the topic.
        policy: a RetryPolicy, or a mapping with its options. None means what the app's policies say for the topic.
            Quick retries and a first delay have no effect here.
        dead_letter_topic: None means the topic where the record was first read, with `rebound_dead_letter_suffix`.
        retry_topic: the topic for the retry; None means the record's own.
        brokers: the brokers of the record's topic; None means `rebound_kafka_brokers`.
    """

    group: str | None
    policy: RetryPolicy | Mapping[str, Any] | None
    dead_letter_topic: str | None
    retry_topic: str | None
    brokers: str | Sequence[str] | None


def check_names(options: Mapping[str, Any]) -> None:
    """Raise a TypeError, as for any function, for an option that `handle_failure` does not have."""
    names = FailureOptions.__annotations__
    if unknown := [name for name in options if name not in names]:
        raise TypeError(f"handle_failure has no option {unknown[0]!r}; its options are {', '.join(names)}")


class _Owner(Protocol):
    """What `FailureHandling` needs of the `Rebound` that it is a part of."""

    @property
    def settings(self) -> Settings: ...

    @property
    def clock(self) -> Clock: ...

    def store(self, retries: Sequence[tuple[Message, int]]) -> None: ...


class FailureHandling:
    """The part of `Rebound` that takes failed records of consumers that are not rebound's.

    A class with this base has what `_Owner` names. It is cast: pyright does not take a cached property for a property.
    """

    def handle_failure(
        self,
        record: object,
        error: BaseException | str,
        **options: Unpack[FailureOptions],
    ) -> Handled:
        """Store a retry or a dead letter of a record whose processing has failed. Then the record may be committed.

        The retry comes back to the record's topic, with its attempt in the header `rebound-attempt`. A record that is
        handed over twice, for example after a crash before the commit, has one retry.

        Args:
            record: a record of kafka-python, confluent-kafka or aiokafka, a message of FastStream, a Record, or a
                mapping; see `read_record`.
            error: why it failed: the exception, which may be RetryAfter, DeadLetter or Drop, or a text.
            **options: `group`, `policy`, `dead_letter_topic`, `retry_topic` and `brokers`; see FailureOptions.

        Raises:
            InvalidSettingError: naming the field that cannot be used. Nothing is stored then.
            NotStoredError: if Redis is away or refuses. Do not commit the record then; hand it over again.
        """
        check_names(options)
        owner = cast(_Owner, self)
        return _store(owner, *_make(owner, record, error, **options))

    async def handle_failure_async(
        self,
        record: object,
        error: BaseException | str,
        **options: Unpack[FailureOptions],
    ) -> Handled:
        """`handle_failure` for asyncio: the event loop runs on while Redis stores the message.

        Calls at the same time share a round trip to Redis. A call that is cancelled may have stored the message.
        """
        check_names(options)
        owner = cast(_Owner, self)
        return await asyncio.to_thread(_store, owner, *_make(owner, record, error, **options))


def _store(owner: _Owner, handled: Handled, message: Message | None) -> Handled:
    if message is not None:
        owner.store([(message, handled.due_ms)])
    return handled


def _make(
    owner: _Owner,
    given: object,
    error: object,
    *,
    group: str | None = None,
    policy: RetryPolicy | Mapping[str, Any] | None = None,
    dead_letter_topic: str | None = None,
    retry_topic: str | None = None,
    brokers: str | Sequence[str] | None = None,
) -> tuple[Handled, Message | None]:
    """Return what becomes of a record, and the message to store; None if the record is dropped."""
    settings, now_ms = owner.settings, owner.clock.now_ms()
    if not isinstance(error, BaseException | str):
        raise InvalidSettingError("error", error, "give the exception, or a text")
    if group is not None and (not isinstance(group, str) or not group):
        raise InvalidSettingError("group", group, "it is the name of a consumer group")
    record = read_record(given, group)
    group = group or record.group
    addresses = _addresses(record, settings, dead_letter_topic, retry_topic, brokers)
    message = Message(
        id=record.id,
        value=record.value,
        destination=addresses[0],
        attempt=record.attempt,
        policy=settings.policies.choose(policy, None, None, record.origin.topic),
        key=record.key,
        headers=record.headers,
        dead_destination=addresses[1],
        history=record.history,
        group=group,
        origin=None if record.origin.offset == UNKNOWN else record.origin,
        first_failed_at=record.first_failed_at,
    )
    raised = error if isinstance(error, BaseException) else None
    failure = settings.redact.failure(Failure.of(error))
    decision = decide(
        message.policy,
        message.attempt,
        failure,
        first_failed_at_ms=message.first_failed_at,
        now_ms=now_ms,
        error=raised,
    )
    if isinstance(decision, Drop):
        _log(record, failure, logging.WARNING, f"it is dropped: {decision.reason}", "dropped")
        return Handled("drop", record.id, record.attempt, now_ms, decision.reason), None
    if isinstance(decision, DeadLetter) and raised is not None:
        # Only a dead letter carries the stack trace.
        failure = settings.redact.failure(Failure.of(raised, with_stack=True))
    by = f"{group or 'handle_failure'}@{socket.gethostname()}"
    message = settings.redact.dead_letter(message.failed(failure, decision, now_ms=now_ms, by=by))
    if (tracer := tracing.find(wanted=settings.tracing)) is not None:
        # The app's own span of the attempt that has failed.
        message = tracer.of_caller(message)
    target = str(message.target)
    if isinstance(decision, Retry):
        delay_s = (decision.due_ms - now_ms) / 1000
        _log(record, failure, logging.INFO, f"attempt {message.attempt} follows in {delay_s:g} s", "retry")
        return Handled("retry", record.id, message.attempt, decision.due_ms, None, target), message
    _log(record, failure, logging.WARNING, f"it becomes a dead letter: {decision.reason}", "dead_letter")
    return Handled("dead-letter", record.id, message.attempt, now_ms, decision.reason, target), message


def _addresses(
    record: Record,
    settings: Settings,
    dead_topic: str | None,
    retry_topic: str | None,
    brokers: str | Sequence[str] | None,
) -> tuple[KafkaAddress, KafkaAddress]:
    """Return where a retry goes, and where a dead letter goes."""
    named = () if brokers is None else parse_brokers(brokers)
    # None means the app's own brokers, which every worker has.
    places = None if set(named) <= set(settings.kafka_brokers) else ",".join(named)
    retry = KafkaAddress(record.topic if retry_topic is None else retry_topic, places)
    if dead_topic is not None:
        if dead_topic == retry.topic:
            raise InvalidSettingError("dead_letter_topic", dead_topic, "it is another topic than that of the retries")
        return retry, KafkaAddress(dead_topic, places)
    suffix = settings.dead_letter_suffix
    try:
        return retry, dead_letter_topic(record.origin.topic, suffix, places)
    except InvalidSettingError:
        # The origin comes from a header, so it may be an invalid topic name.
        return retry, dead_letter_topic(record.topic, suffix, places)


def _log(record: Record, failure: Failure, level: int, consequence: str, event: str) -> None:
    logger.log(
        level,
        "attempt %d of %s (message %s) failed with %s; %s",
        record.attempt,
        record.origin if record.origin.offset != UNKNOWN else record.topic,
        record.id,
        failure,
        consequence,
        extra={"event": event, "message_id": record.id, "attempt": record.attempt, "topic": record.topic},
    )
