"""A dead letter with its view, its value, and what is needed to replay it; read from Redis or a Kafka topic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ..errors import ReboundError
from ..message import Message, Origin, codec, derive_id, message_id_of
from ..message.address import Address, KafkaAddress
from ..message.encryption import KeyRing
from ..message.foreign import SHARE_GROUP, read_foreign
from ..message.headers import CLIENT_ID as CLIENT
from ..message.headers import (
    EXCEPTION_CLASS,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    REASON,
    SOURCE,
    KafkaRecord,
    read_dead_letter,
    split_replays,
)
from ..policy import Failure
from ..schedule.port import DeadEntry, Position
from ..selection import DeadLetterView

#: Whose headers a record has that fits no convention.
UNKNOWN = "unknown"

_LOG_APPEND_TIME = 1


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter.

    Attributes:
        view: what every face shows of it.
        value: the value; None also where it cannot be read.
        message: the message as Redis keeps it; None for one of a Kafka topic, and for one that cannot be read.
        topic: the topic that its record came from, or that it was for; None if it is not known.
        copied: whether the value is that of the record. A share group may leave it out.
    """

    view: DeadLetterView
    value: bytes | None
    message: Message | None = None
    topic: str | None = None
    copied: bool = True

    @property
    def place(self) -> Position:
        """Its place among the dead letters in Redis."""
        return Position(self.view.died_ms or 0, self.view.id)


def letters_of(entries: Sequence[DeadEntry], keys: KeyRing) -> Iterator[Letter]:
    """Give the letters of entries in Redis, in their order."""
    opened = [keys.try_open(entry.stored) for entry in entries]
    forms = [
        (message_id_of(entry.id), form) for entry, form in zip(entries, opened, strict=True) if isinstance(form, bytes)
    ]
    decoded = iter(codec.decode_many(forms))
    for entry, form in zip(entries, opened, strict=True):
        found = next(decoded) if isinstance(form, bytes) else form
        yield _unreadable(entry, found) if isinstance(found, ReboundError) else _of_message(entry, found[0])


def _unreadable(entry: DeadEntry, error: ReboundError) -> Letter:
    view = DeadLetterView(id=entry.id, died_ms=entry.died_ms, reason=entry.reason or None, problem=str(error))
    return Letter(view=view, value=None)


def _of_message(entry: DeadEntry, message: Message) -> Letter:
    # The schedule also gives up messages, without writing the reason into the message.
    message = message if message.reason is not None else message.dead(entry.reason)
    replays, headers = split_replays(message.headers)
    view = DeadLetterView.of_message(
        msgspec.structs.replace(message, headers=headers),
        id=entry.id,
        died_ms=entry.died_ms,
        attempts=message.attempt,
        replays=replays,
    )
    destination = message.destination
    topic = destination.topic if isinstance(destination, KafkaAddress) else None
    return Letter(view=view, value=message.value, message=message, topic=topic)


def letter_id(topic: str, partition: int, offset: int) -> str:
    """Return the id of a dead letter in a Kafka topic."""
    return f"{topic}:{partition}:{offset}"


def letter_of_record(record: KafkaRecord, suffix: str, timestamp_type: int | None = None) -> Letter:
    """Return the letter of a record of a Kafka topic, whoever wrote it.

    Args:
        record: the record.
        suffix: the app's `rebound_dead_letter_suffix`.
        timestamp_type: 1 if the timestamp is the broker's.
    """
    fields = _own(record, suffix) or _foreign(record, timestamp_type)
    topic = fields.pop("topic")
    copied = fields.pop("copied", True)
    replays, headers = split_replays(fields.pop("headers"))
    view = DeadLetterView(
        id=letter_id(record.topic, record.partition, record.offset),
        kept_in=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        headers=headers,
        replays=replays,
        destination=_address(topic),
        size_bytes=None if record.value is None else len(record.value),
        **fields,
    )
    return Letter(view=view, value=record.value, topic=topic, copied=copied)


def _address(topic: str | None) -> Address | None:
    """The topic as an address; None for a name from a header that no topic can have."""
    if topic is None:
        return None
    try:
        return KafkaAddress(topic)
    except ReboundError:
        return None


def stem_of(topic: str, suffix: str) -> str | None:
    """Return the topic whose dead letter topic this is, by its name; None if it does not end with the suffix."""
    return topic[: -len(suffix)] if topic.endswith(suffix) and len(topic) > len(suffix) else None


def _own(record: KafkaRecord, suffix: str) -> dict[str, Any] | None:
    """The fields of a dead letter of rebound's; None if it is none."""
    found = read_dead_letter(record)
    if found is None:
        return None
    read, own = found
    texts = [own.get(name) for name in (EXCEPTION_CLASS, EXCEPTION_MESSAGE, EXCEPTION_STACKTRACE)]
    failure = None if texts[1] is None else Failure(texts[0] or "", texts[1], texts[2] or "")
    here = Origin(record.topic, record.partition, record.offset, record.timestamp)
    origin = None if read.origin == here else read.origin
    return {
        "topic": stem_of(record.topic, suffix) if origin is None else origin.topic,
        "message_id": read.id,
        "headers": read.headers,
        "origin": origin,
        "group": read.group,
        "reason": own[REASON],
        "failure": failure,
        "attempts": read.attempt,
        "history": read.history,
        "first_failed_at_ms": read.first_failed_at,
        "source": own.get(SOURCE),
        "client_id": own.get(CLIENT),
        "died_ms": record.timestamp,
    }


def _foreign(record: KafkaRecord, timestamp_type: int | None) -> dict[str, Any]:
    """The fields of a dead letter of another program, or of a record of which nothing is known."""
    message_id = derive_id("dead-letter", record.topic, record.partition, record.offset)
    found = read_foreign(tuple(record.headers))
    if found is None:
        return {
            "topic": None,
            "message_id": message_id,
            "headers": tuple(record.headers),
            "written_by": UNKNOWN,
            "died_ms": record.timestamp,
        }
    is_own_time = found.has_own_timestamp or timestamp_type == _LOG_APPEND_TIME
    return {
        "topic": found.origin_topic,
        "message_id": message_id,
        "headers": found.headers,
        "origin": found.origin,
        "group": found.group,
        "reason": found.reason,
        "failure": found.failure,
        "attempts": found.attempts,
        "source": found.source,
        "written_by": found.written_by,
        "died_ms": record.timestamp if is_own_time else None,
        "copied": not (found.written_by == SHARE_GROUP and record.key is None and record.value is None),
    }
