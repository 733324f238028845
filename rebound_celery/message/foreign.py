"""Reads the headers of dead letters that other programs wrote. This module alone spells their names.

Each convention is as its program's source has it:

- Spring Kafka: `DeadLetterPublishingRecoverer` and `KafkaHeaders` of spring-kafka. The names begin with `kafka_dlt-`;
  those of `@RetryableTopic` begin with `kafka_`, beside `retry_topic-attempts`. Numbers are big-endian, of 4 bytes
  (partition, attempts) or 8 bytes (offset, timestamp).
- Kafka Connect: `DeadLetterQueueReporter`, with `errors.deadletterqueue.context.headers.enable`. Numbers are text. The
  dead letter has the timestamp of the record.
- Kafka Streams: `ExceptionHandlerUtils` (KIP-1034). Numbers are text; the exception is `Class: text`. The dead letter
  has the timestamp of the record.
- SmallRye Reactive Messaging (Quarkus): `KafkaDeadLetterQueue`. Numbers are text.
- Share groups of Kafka: `ShareGroupDLQStateManager` (KIP-1191). Numbers are text. The broker copies key and value only
  where the group is configured so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from ..policy import Failure
from ..policy.failure import MAX_ERROR_TEXT, MAX_STACKTRACE
from .record import Headers, Origin

#: Who has written a dead letter; see `ForeignLetter.written_by`.
SPRING = "spring-kafka"
CONNECT = "kafka-connect"
STREAMS = "kafka-streams"
SMALLRYE = "smallrye"
SHARE_GROUP = "share-group"

_SPRING = "kafka_dlt-"
_SPRING_RETRY = "kafka_"
_SPRING_ATTEMPTS = "retry_topic-attempts"
_CONNECT = "__connect.errors."
_STREAMS = "__streams.errors."
_SMALLRYE = "dead-letter-"
_SHARE = "__dlq.errors."

#: What Spring Kafka wraps around the exception of a listener.
_SPRING_WRAPPER = "org.springframework.kafka.listener.ListenerExecutionFailedException"

_FIELDS = {
    _SPRING: (
        *("original-topic", "original-partition", "original-offset", "original-timestamp", "original-timestamp-type"),
        *("original-consumer-group", "exception-fqcn", "exception-cause-fqcn", "exception-message"),
        *("exception-stacktrace", "key-exception-fqcn", "key-exception-message", "key-exception-stacktrace"),
    ),
    _CONNECT: (
        *("topic", "partition", "offset", "connector.name", "task.id", "stage", "class.name"),
        *("exception.class.name", "exception.message", "exception.stacktrace"),
    ),
    _STREAMS: ("exception", "stacktrace", "message", "topic", "partition", "offset"),
    _SMALLRYE: ("exception-class-name", "cause-class-name", "reason", "cause", "topic", "offset", "partition"),
    _SHARE: ("topic", "partition", "offset", "group", "delivery.count", "message"),
}
_FIELDS[_SPRING_RETRY] = _FIELDS[_SPRING]

_MORE = {
    _SPRING: (_SPRING_ATTEMPTS, "retry_topic-original-timestamp", "retry_topic-backoff-timestamp"),
    _SPRING_RETRY: (_SPRING_ATTEMPTS, "retry_topic-original-timestamp", "retry_topic-backoff-timestamp"),
}

#: Beginning of the names -> all names of the convention. A replay leaves them out.
_NAMES: Mapping[str, frozenset[str]] = {
    start: frozenset((*(start + field for field in fields), *_MORE.get(start, ()))) for start, fields in _FIELDS.items()
}


class ForeignLetter(msgspec.Struct, frozen=True, kw_only=True):
    """What the headers of another program's dead letter tell.

    Attributes:
        written_by: the program: one of this module's constants.
        headers: the other headers, which the record had before.
        origin: the record that failed; None where its place is not known.
        origin_topic: its topic, which may be known without its place.
        group: its consumer group.
        reason: why it was given up.
        failure: the exception.
        attempts: how many attempts were made.
        source: the name of the connector.
        has_own_timestamp: whether the timestamp of the dead letter is that of its death, and not that of the record.
    """

    written_by: str
    headers: Headers
    origin: Origin | None = None
    origin_topic: str | None = None
    group: str | None = None
    reason: str | None = None
    failure: Failure | None = None
    attempts: int | None = None
    source: str | None = None
    has_own_timestamp: bool = True


class _Found:
    """The headers of one convention."""

    def __init__(self, start: str, headers: Headers) -> None:
        names = _NAMES[start]
        self._start = start
        found = [(name, value) for name, value in headers if name in names]
        # Of several with one name the newest one counts. SmallRye puts its headers before those of the record.
        self._newest_first = found if start == _SMALLRYE else found[::-1]
        self.others = tuple(header for header in headers if header[0] not in names)

    def raw(self, field: str, *, own_name: bool = False) -> bytes | None:
        name = field if own_name else self._start + field
        return next((value for key, value in self._newest_first if key == name), None)

    def text(self, field: str) -> str | None:
        value = self.raw(field)
        return None if value is None else value.decode("utf-8", "replace")

    def number(self, field: str, *, own_name: bool = False) -> int | None:
        """A number in text, or in 4 or 8 bytes, the highest first; None if it is neither."""
        value = self.raw(field, own_name=own_name)
        if value is None or len(value) > 20:
            return None
        digits = value.decode("latin-1")
        # Bytes that are all digits are text: as a number they would be larger than any offset.
        if value and digits.isascii() and digits.removeprefix("-").isdigit():
            return int(digits)
        return int.from_bytes(value, "big", signed=True) if len(value) in (4, 8) else None

    def origin(self, before: str = "", timestamp: int | None = None) -> Origin | None:
        topic, partition = self.text(f"{before}topic"), self.number(f"{before}partition")
        offset = self.number(f"{before}offset")
        if not topic or partition is None or offset is None or partition < 0 or offset < 0:
            return None
        return Origin(topic, partition, offset, -1 if timestamp is None else timestamp)

    def failure(self, kind: str | None, message: str | None, stack: str | None = None) -> Failure | None:
        if kind is None and message is None and stack is None:
            return None
        return Failure((kind or "")[:MAX_ERROR_TEXT], (message or "")[:MAX_ERROR_TEXT], (stack or "")[-MAX_STACKTRACE:])


def _spring(found: _Found) -> ForeignLetter:
    kind = found.text("exception-fqcn") or found.text("key-exception-fqcn")
    if kind == _SPRING_WRAPPER:
        kind = found.text("exception-cause-fqcn") or kind
    message = found.text("exception-message") or found.text("key-exception-message")
    stack = found.text("exception-stacktrace") or found.text("key-exception-stacktrace")
    return ForeignLetter(
        written_by=SPRING,
        headers=found.others,
        origin=found.origin("original-", found.number("original-timestamp")),
        origin_topic=found.text("original-topic"),
        group=found.text("original-consumer-group"),
        failure=found.failure(kind, message, stack),
        attempts=found.number(_SPRING_ATTEMPTS, own_name=True),
    )


def _connect(found: _Found) -> ForeignLetter:
    return ForeignLetter(
        written_by=CONNECT,
        headers=found.others,
        origin=found.origin(),
        origin_topic=found.text("topic"),
        reason=found.text("stage"),
        failure=found.failure(
            found.text("exception.class.name"), found.text("exception.message"), found.text("exception.stacktrace")
        ),
        source=found.text("connector.name"),
        has_own_timestamp=False,
    )


def _streams(found: _Found) -> ForeignLetter:
    kind = found.text("exception")
    return ForeignLetter(
        written_by=STREAMS,
        headers=found.others,
        origin=found.origin(),
        origin_topic=found.text("topic"),
        failure=found.failure(
            None if kind is None else kind.partition(": ")[0], found.text("message"), found.text("stacktrace")
        ),
        has_own_timestamp=False,
    )


def _smallrye(found: _Found) -> ForeignLetter:
    return ForeignLetter(
        written_by=SMALLRYE,
        headers=found.others,
        origin=found.origin(),
        origin_topic=found.text("topic"),
        failure=found.failure(found.text("exception-class-name"), found.text("reason")),
    )


def _share_group(found: _Found) -> ForeignLetter:
    return ForeignLetter(
        written_by=SHARE_GROUP,
        headers=found.others,
        origin=found.origin(),
        origin_topic=found.text("topic"),
        group=found.text("group"),
        reason=found.text("message"),
        attempts=found.number("delivery.count"),
    )


#: Each convention: a header that all its dead letters have, the beginning of its names, and its reader.
_CONVENTIONS: tuple[tuple[str, str, Callable[[_Found], ForeignLetter]], ...] = (
    (f"{_SPRING}original-topic", _SPRING, _spring),
    (f"{_SPRING_RETRY}original-topic", _SPRING_RETRY, _spring),
    (f"{_CONNECT}topic", _CONNECT, _connect),
    (f"{_STREAMS}topic", _STREAMS, _streams),
    (f"{_SHARE}topic", _SHARE, _share_group),
    (f"{_SMALLRYE}topic", _SMALLRYE, _smallrye),
)


def read_foreign(headers: Headers) -> ForeignLetter | None:
    """Return what the headers of another program's dead letter tell; None if they fit no convention that is known."""
    names = {name for name, _ in headers}
    for mark, start, read in _CONVENTIONS:
        if mark in names:
            return read(_Found(start, headers))
    return None
