"""Writes and reads the headers that rebound adds to a Kafka record or an HTTP request.

All are UTF-8 text. A new value replaces the earlier one, so the number of headers does not grow with the attempts.
"""

from __future__ import annotations

import logging
import re
from typing import Protocol

import msgspec

from ..policy import MAX_RETRIES_LIMIT
from .history import History, PastAttempt, bounded
from .ids import derive_record_id
from .message import Message
from .record import Headers, Origin, Record

ID = "rebound-id"
ATTEMPT = "rebound-attempt"
GROUP = "rebound-group"
ORIGIN_TOPIC = "rebound-origin-topic"
ORIGIN_PARTITION = "rebound-origin-partition"
ORIGIN_OFFSET = "rebound-origin-offset"
ORIGIN_TIMESTAMP = "rebound-origin-timestamp"
FIRST_FAILED_AT = "rebound-first-failed-at"
REASON = "rebound-reason"
EXCEPTION_CLASS = "rebound-exception-class"
EXCEPTION_MESSAGE = "rebound-exception-message"
EXCEPTION_STACKTRACE = "rebound-exception-stacktrace"
SOURCE = "rebound-source"
CLIENT_ID = "rebound-client-id"
HISTORY = "rebound-history"
PREVIOUS_SPAN = "rebound-previous-span"

#: How often a record was replayed from its dead letter, and what an operator has changed of it. These two travel as any
#: header of the user's does: through all retries, into the next dead letter, and over HTTP. A handler sees them.
REPLAYS = "rebound-replays"
EDITED = "rebound-edited"

OWN_HEADERS = frozenset(
    {
        ID,
        ATTEMPT,
        GROUP,
        ORIGIN_TOPIC,
        ORIGIN_PARTITION,
        ORIGIN_OFFSET,
        ORIGIN_TIMESTAMP,
        FIRST_FAILED_AT,
        REASON,
        EXCEPTION_CLASS,
        EXCEPTION_MESSAGE,
        EXCEPTION_STACKTRACE,
        SOURCE,
        CLIENT_ID,
        HISTORY,
        PREVIOUS_SPAN,
    }
)

#: The longest history in a record's headers, in bytes. The oldest attempts of a longer history are left out.
MAX_HISTORY_BYTES = 2_048

#: A number as rebound writes it. int() alone would also take "1_0", " 2" and digits of other scripts.
_NUMBER_FORM = re.compile(r"-?[0-9]{1,19}")
_LARGEST = 2**63 - 1

logger = logging.getLogger(__name__)


class KafkaRecord(Protocol):
    """The fields of kafka-python's ConsumerRecord that rebound reads."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> list[tuple[str, bytes | None]]: ...


class _BrokenHeaderError(Exception):
    """One of rebound's headers holds a value that rebound never writes."""


class _HistoryEntry(msgspec.Struct, frozen=True, gc=False):
    """A past attempt in the header. Its field names are the names in the header's JSON."""

    attempt: int
    failed_at: int
    error: str
    by: str


_history_decoder = msgspec.json.Decoder(tuple[_HistoryEntry, ...])


def _number(own: dict[str, str], name: str) -> int | None:
    text = own.get(name)
    if text is None:
        return None
    if not _NUMBER_FORM.fullmatch(text) or abs(number := int(text)) > _LARGEST:
        raise _BrokenHeaderError(f"{name}={text[:50]!r}")
    return number


def _split(headers: Headers | list[tuple[str, bytes | None]]) -> tuple[dict[str, str], Headers]:
    """Return rebound's own headers as text, and the user's headers unchanged."""
    own: dict[str, str] = {}
    users: list[tuple[str, bytes | None]] = []
    for name, value in headers:
        if name in OWN_HEADERS:
            own[name] = (value or b"").decode("utf-8", "replace")
        else:
            users.append((name, value))
    return own, tuple(users)


def read_record(record: KafkaRecord, group: str) -> Record:
    """Return a consumed record with the attempt from its headers. Broken headers make it a first attempt.

    Args:
        record: the record of kafka-python, with key and value as bytes.
        group: the reading consumer group. It is part of a new record's id, because two groups that both fail on a
            record have two retries, not one.
    """
    topic, partition, offset, timestamp = record.topic, record.partition, record.offset, record.timestamp
    here = Origin(topic, partition, offset, timestamp)
    if record.headers:
        own, users = _split(record.headers)
        if own:
            return _read_again(record, group, here, own, users)
    else:
        users = ()
    record_id = derive_record_id(group, topic, partition, offset, timestamp)
    # Arguments by position are faster, and this runs for every record.
    return Record(topic, partition, offset, timestamp, record.key, record.value, users, record_id, here)


def _read_again(record: KafkaRecord, group: str, here: Origin, own: dict[str, str], users: Headers) -> Record:
    """Read a record that has rebound's headers."""
    try:
        attempt, first_failed_at, origin = _read_own(own, here)
        history = _read_history(own.get(HISTORY), here)
    except _BrokenHeaderError as broken:
        _warn(here, broken, "taken as a first attempt")
        attempt, first_failed_at, origin, own, history = 1, None, here, {}, ()
    return Record(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        key=record.key,
        value=record.value,
        headers=users,
        attempt=attempt,
        id=own.get(ID) or derive_record_id(group, origin.topic, origin.partition, origin.offset, origin.timestamp),
        first_failed_at=first_failed_at,
        origin=origin,
        group=own.get(GROUP),
        history=history,
        previous_span=own.get(PREVIOUS_SPAN, "")[:55] or None,
    )


def read_dead_letter(record: KafkaRecord) -> tuple[Record, dict[str, str]] | None:
    """Return a dead letter of rebound's as a record, and its own headers as text; None if another program wrote it."""
    own, users = _split(record.headers)
    if REASON not in own:
        return None
    here = Origin(record.topic, record.partition, record.offset, record.timestamp)
    return _read_again(record, own.get(GROUP, ""), here, own, users), own


def split_replays(headers: Headers) -> tuple[int, Headers]:
    """Return how often a record was replayed, and its headers without that number. A broken number counts as 0."""
    found = [value for name, value in headers if name == REPLAYS]
    if not found:
        return 0, headers
    text = (found[-1] or b"").decode("utf-8", "replace")
    replays = int(text) if _NUMBER_FORM.fullmatch(text) else 0
    return min(max(0, replays), _LARGEST), tuple(header for header in headers if header[0] != REPLAYS)


def replayed_headers(headers: Headers, replays: int, edited: str | None = None) -> Headers:
    """Return headers with the number of replays, and with what was changed; None leaves that as it is."""
    kept = [header for header in headers if header[0] != REPLAYS and (edited is None or header[0] != EDITED)]
    kept.append((REPLAYS, b"%d" % replays))
    if edited is not None:
        kept.append((EDITED, edited.encode("utf-8", "replace")))
    return tuple(kept)


def _warn(here: Origin, broken: object, consequence: str) -> None:
    logger.warning(
        "%s has a broken header (%s); %s",
        here,
        broken,
        consequence,
        extra={"event": "broken_headers", "topic": here.topic, "offset": here.offset},
    )


def _read_own(own: dict[str, str], here: Origin) -> tuple[int, int | None, Origin]:
    attempt = 1 if (number := _number(own, ATTEMPT)) is None else number
    if not 1 <= attempt <= 1 + MAX_RETRIES_LIMIT:
        raise _BrokenHeaderError(f"{ATTEMPT}={attempt}")
    partition, offset, timestamp = (_number(own, name) for name in (ORIGIN_PARTITION, ORIGIN_OFFSET, ORIGIN_TIMESTAMP))
    topic = own.get(ORIGIN_TOPIC)
    origin = here
    if topic is not None and partition is not None and offset is not None:
        origin = Origin(topic, partition, offset, here.timestamp if timestamp is None else timestamp)
    return attempt, _number(own, FIRST_FAILED_AT), origin


def _read_history(text: str | None, here: Origin) -> History:
    """Return the history from its header. It is empty if the header is missing or broken."""
    if text is None:
        return ()
    try:
        if len(text) > 4 * MAX_HISTORY_BYTES:
            raise ValueError(f"{len(text)} characters")  # noqa: TRY301 - handled like text that is broken
        entries = _history_decoder.decode(text)
        # The stored form of a history holds numbers of at most 64 bits.
        if any(abs(entry.attempt) > _LARGEST or abs(entry.failed_at) > _LARGEST for entry in entries):
            raise ValueError("a number is too large")  # noqa: TRY301 - handled like text that is broken
    except (ValueError, RecursionError) as error:
        _warn(here, f"{HISTORY}: {str(error)[:100]}", "its history is left out")
        return ()
    return bounded(tuple(PastAttempt(e.attempt, e.failed_at, e.error, e.by) for e in entries))


def _history_text(history: History) -> bytes:
    """Return the text of the history's header. The oldest attempts are left out if the text would be too long."""
    entries = [_HistoryEntry(p.attempt, p.failed_at_ms, p.error, p.by) for p in history]
    try:
        text = msgspec.json.encode(entries)
    except UnicodeEncodeError:  # lone surrogates
        entries = [_HistoryEntry(e.attempt, e.failed_at, _utf8(e.error), _utf8(e.by)) for e in entries]
        text = msgspec.json.encode(entries)
    while len(text) > MAX_HISTORY_BYTES:
        del entries[0]
        text = msgspec.json.encode(entries)
    return text


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def own_headers(message: Message) -> list[tuple[str, str]]:
    """Return the headers that rebound adds to a delivery of `message`, in a fixed order, without its history.

    Only Kafka gets the history, because HTTP servers refuse long headers. Only a consumer of rebound's reads the span.
    """
    origin = message.origin
    candidates: list[tuple[str, object]] = [
        (ID, message.id),
        (ATTEMPT, message.attempt),
        (GROUP, message.group),
        (ORIGIN_TOPIC, origin and origin.topic),
        (ORIGIN_PARTITION, None if origin is None else origin.partition),
        (ORIGIN_OFFSET, None if origin is None else origin.offset),
        (ORIGIN_TIMESTAMP, None if origin is None else origin.timestamp),
        (FIRST_FAILED_AT, message.first_failed_at),
        (SOURCE, message.source),
        (CLIENT_ID, message.client_id),
    ]
    if message.reason is not None:
        candidates.append((REASON, message.reason))
        if message.failure is not None:
            candidates += [
                (EXCEPTION_CLASS, message.failure.exception_class or None),
                (EXCEPTION_MESSAGE, message.failure.message),
                (EXCEPTION_STACKTRACE, message.failure.stacktrace or None),
            ]
    return [(name, str(value)) for name, value in candidates if value is not None]


def kafka_headers(message: Message) -> list[tuple[str, bytes | None]]:
    """Return all headers of the record that delivers `message`: the user's in their order, then rebound's own."""
    headers = [(name, value) for name, value in message.headers if name not in OWN_HEADERS]
    # A text may hold a lone surrogate, for example from an exception. UTF-8 cannot hold it, and it must not stop the
    # delivery.
    headers += [(name, text.encode("utf-8", "replace")) for name, text in own_headers(message)]
    if message.history:
        headers.append((HISTORY, _history_text(message.history)))
    if message.previous_span is not None:
        headers.append((PREVIOUS_SPAN, message.previous_span.encode()))
    return headers
