"""Reads the records of other Kafka clients: kafka-python, confluent-kafka, aiokafka, FastStream, or plain fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from ..errors import InvalidSettingError
from ..message import Record, headers, new_id
from ..message.address import check_topic
from ..policy import MAX_RETRIES_LIMIT
from ..shown import shown
from ..values import encode_headers, encode_key, encode_value, text_of

#: The partition and the offset of a record whose place is not known.
UNKNOWN = -1

_LARGEST = 2**63 - 1

_FORMS = "give a record of kafka-python, confluent-kafka, aiokafka or FastStream, a Record, or a mapping with `topic`"
_FIELDS = ("topic", "value", "key", "headers", "partition", "offset", "timestamp", "id", "attempt")


class _Fields(NamedTuple):
    """A record as `headers.read_record` reads it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def read_record(record: object, group: str | None = None) -> Record:
    """Return a record of another Kafka client as rebound's own: with its attempt, its id and its first place.

    Args:
        record: a record of kafka-python, confluent-kafka or aiokafka; a message of FastStream; a mapping with `topic`,
            and where known `value`, `key`, `headers`, `partition`, `offset`, `timestamp`, `id` and `attempt`; or a
            Record, which is returned as it is.
        group: the consumer group that has read it. Two groups that fail on one record have a retry each.

    Raises:
        InvalidSettingError: if it is none of these, or one of its fields cannot be used.
    """
    if isinstance(record, Record):
        return record
    if isinstance(record, Mapping):
        return _from_mapping(record, group)
    return _read(_fields_of(record), group)


def _fields_of(record: Any) -> _Fields:
    raw = getattr(record, "raw_message", None)  # of the user: FastStream's message holds the client's record
    if raw is not None:
        record = raw
    if isinstance(record, list | tuple) and not hasattr(record, "topic"):  # of the user: a batch
        raise InvalidSettingError("record", type(record), "it is a batch: give each of its records alone")
    try:
        if callable(record.topic):
            return _from_confluent(record)
        return _checked(
            record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, record.headers
        )
    except AttributeError:
        raise InvalidSettingError("record", type(record), _FORMS) from None


def _from_confluent(message: Any) -> _Fields:
    if (error := message.error()) is not None:
        raise InvalidSettingError("record", str(error), "confluent-kafka tells of an error here, there is no record")
    _, timestamp = message.timestamp()
    return _checked(
        message.topic(),
        message.partition(),
        message.offset(),
        timestamp,
        message.key(),
        message.value(),
        message.headers(),
    )


def _checked(
    topic: object, partition: object, offset: object, timestamp: object, key: object, value: object, pairs: object
) -> _Fields:
    for name, part in (("key", key), ("value", value)):
        if part is not None and not isinstance(part, bytes):
            raise InvalidSettingError(
                f"record.{name}", type(part), "it is bytes or None: a retry keeps them, so decode them in your loop"
            )
    return _Fields(
        check_topic(topic, "record.topic"),
        _number("record.partition", partition),
        _number("record.offset", offset),
        0 if timestamp is None else max(0, _number("record.timestamp", timestamp, least=-1)),
        key,  # type: ignore[arg-type]
        value,  # type: ignore[arg-type]
        [] if pairs is None else list(encode_headers(pairs)),
    )


def _number(name: str, value: object, *, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST:
        raise InvalidSettingError(name, shown(value), f"it is a whole number from {least}")
    return value


def _from_mapping(given: Mapping[Any, Any], group: str | None) -> Record:
    for name in given:
        if name not in _FIELDS:
            raise InvalidSettingError(f"record[{name!r}]", shown(given[name]), f"the fields are {', '.join(_FIELDS)}")
    if "topic" not in given:
        raise InvalidSettingError("record", sorted(given), "its field `topic` is missing")
    place = [name for name in ("partition", "offset") if given.get(name) is not None]
    if len(place) == 1:
        raise InvalidSettingError("record", place[0], "give partition and offset, or neither")
    value, key, timestamp = given.get("value"), given.get("key"), given.get("timestamp")
    fields = _Fields(
        check_topic(given["topic"], "record.topic"),
        _number("record.partition", given["partition"]) if place else UNKNOWN,
        _number("record.offset", given["offset"]) if place else UNKNOWN,
        0 if timestamp is None else _number("record.timestamp", timestamp),
        None if key is None else encode_key(key),
        None if value is None else encode_value(value)[0],
        list(encode_headers(given.get("headers") or ())),
    )
    record = _read(fields, group)
    if (attempt := given.get("attempt")) is not None:
        if isinstance(attempt, bool) or not isinstance(attempt, int) or not 1 <= attempt <= 1 + MAX_RETRIES_LIMIT:
            raise InvalidSettingError(
                "record.attempt", shown(attempt), f"it is a whole number from 1 to {1 + MAX_RETRIES_LIMIT}"
            )
        record = replace(record, attempt=attempt)
    if (own := given.get("id")) is not None:
        record = replace(record, id=text_of("record.id", own))
    return record


def _read(fields: _Fields, group: str | None) -> Record:
    record = headers.read_record(fields, group or "")
    if record.origin.offset == UNKNOWN and not any(name == headers.ID for name, _ in fields.headers):
        # Without a place nothing tells two records apart.
        record = replace(record, id=new_id())
    return record
