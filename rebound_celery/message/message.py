"""What travels: the record as consumed, and the message that carries its value from one attempt to the next."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import traceback
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..caching import cached
from ..errors import WireFormatError
from ..policy import MAX_RETRIES_LIMIT, policy_of
from .address import DEAD_SET, Address, KafkaAddress, parse_address

#: Raised when the wire form changes in a way that older workers cannot read.
WIRE_VERSION = 1

#: Bounds for what a failure may add to a record, in characters. Kafka refuses records over 1 MB by default.
MAX_ERROR_TEXT = 1_000
MAX_STACKTRACE = 8_000

#: The namespace of the ids that rebound derives: uuid.uuid5(NAMESPACE_DNS, "rebound-celery").
_ID_NAMESPACE = uuid.UUID("9c3d7f54-72f4-5d46-a8db-154ef957a565")

Headers = tuple[tuple[str, bytes | None], ...]

#: The fields of a message that are text or None, and travel as they are.
_TEXTS = ("reason", "group", "content_type", "source", "client_id")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message was first read: topic, partition, offset, and the record's timestamp in Unix milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, in bounded text."""

    exception_class: str
    message: str
    stacktrace: str = ""

    @classmethod
    def of(cls, error: BaseException | str, *, with_stack: bool = False) -> Failure:
        """Describe an exception, or a text that a caller gives as the error.

        The stack trace is for dead letters: formatting it costs far more than storing a retry does.
        """
        if isinstance(error, str):
            return cls("", error[:MAX_ERROR_TEXT])
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        try:
            text = str(error)
        except Exception:  # noqa: BLE001 - an exception of the user's whose __str__ itself fails
            text = "(its text could not be read)"
        # The end of a stack trace says the most: where it was raised.
        stack = "".join(traceback.format_exception(error, limit=-20))[-MAX_STACKTRACE:] if with_stack else ""
        return cls(name, text[:MAX_ERROR_TEXT], stack)

    def __str__(self) -> str:
        return f"{self.exception_class}: {self.message}" if self.exception_class else self.message


def derive_id(*parts: object) -> str:
    """A stable id: the same parts always give the same one, in any process."""
    # uuid.uuid5, written out: made for every record, its two UUID objects took a sixth of a consumer's loop.
    name = "\0".join(map(str, parts)).encode()
    return _uuid(hashlib.sha1(_ID_NAMESPACE.bytes + name, usedforsecurity=False).hexdigest(), 5)


def new_id() -> str:
    """An id like no other: uuid.uuid4, written out likewise."""
    return _uuid(os.urandom(16).hex(), 4)


def _uuid(digits: str, version: int) -> str:
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-{version}{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A Kafka record as the handler gets it: the fields of kafka-python's ConsumerRecord, and which attempt this is.

    Attributes:
        topic, partition, offset: where this record was read.
        timestamp: Unix milliseconds, as the record carries it.
        key, value: the bytes as produced; None where the record has none.
        headers: pairs of name and bytes in their order, without those that rebound adds.
        attempt: which try of the processing this is; 1 is the first.
        id: the same over all attempts of one message, so that a handler can drop duplicates by it.
        first_failed_at: Unix milliseconds of the first failure; None on the first attempt.
        origin: where the message was first read; this record itself on the first attempt.
        group: the consumer group that a retry is for; None on records that are not retries.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    attempt: int = 1
    id: str
    first_failed_at: int | None = None
    origin: Origin
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What waits, and is delivered: the caller's data, where it goes, and how far it has come.

    Attributes:
        id: stable over all attempts.
        value, key, headers: kept byte for byte.
        destination: where a retry goes.
        dead_destination: where it goes once it is given up.
        attempt: the attempt that the next delivery begins; on a dead letter, the last one that failed.
        max_retries, base_delay: its policy, so that any worker can decide what comes after a failed delivery.
        reason: None while it is alive; on a dead letter a fixed word of those in `docs/guarantees.md`.
        failure: what the last attempt failed with.
        group: the consumer group that the retry is for.
        origin: where it was first read.
        first_failed_at: Unix milliseconds.
        content_type: what an HTTP receiver is told; None means what the headers say, or bytes.
        source, client_id: free words of the caller's that travel along.
    """

    id: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    destination: Address
    dead_destination: Address = DEAD_SET
    attempt: int
    max_retries: int
    base_delay: float
    reason: str | None = None
    failure: Failure | None = None
    group: str | None = None
    origin: Origin | None = None
    first_failed_at: int | None = None
    content_type: str | None = None
    source: str | None = None
    client_id: str | None = None

    @property
    def target(self) -> Address:
        """Where the next delivery goes."""
        return self.destination if self.reason is None else self.dead_destination

    @property
    def task_id(self) -> str:
        """The id of the Celery task that delivers this attempt: derived, so that storing twice is one task."""
        return f"{self.id}:{self.attempt if self.reason is None else 'dead'}"

    def dead(self, reason: str, failure: Failure | None = None) -> Message:
        """The same message, given up."""
        return replace(self, reason=reason, failure=failure or self.failure)

    def __str__(self) -> str:
        """One line without payload, for Flower, logs and events."""
        where = str(self.origin or self.source or self.id)
        if self.reason is not None:
            return f"{where} dead after attempt {self.attempt}: {self.reason} -> {self.target}"
        return f"{where} attempt {self.attempt}/{1 + self.max_retries} -> {self.target}"

    def to_wire(self) -> dict[str, Any]:
        """The argument of the Celery task: what JSON can hold, without what is None."""
        wire: dict[str, Any] = {
            "v": WIRE_VERSION,
            "id": self.id,
            "destination": self.destination.to_wire(),
            "dead_destination": self.dead_destination.to_wire(),
            "attempt": self.attempt,
            "max_retries": self.max_retries,
            "base_delay": self.base_delay,
        }
        if self.value is not None:
            wire["value"] = _pack(self.value)
        if self.key is not None:
            wire["key"] = _pack(self.key)
        if self.headers:
            wire["headers"] = [[name, _pack(value)] for name, value in self.headers]
        if self.first_failed_at is not None:
            wire["first_failed_at"] = self.first_failed_at
        for name in _TEXTS:
            if (text := getattr(self, name)) is not None:
                wire[name] = text
        if self.failure is not None:
            wire["failure"] = [self.failure.exception_class, self.failure.message, self.failure.stacktrace]
        if self.origin is not None:
            origin = self.origin
            wire["origin"] = [origin.topic, origin.partition, origin.offset, origin.timestamp]
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> Message:
        """Read what `to_wire` wrote.

        Raises:
            WireFormatError: if another version wrote it, or it is damaged.
        """
        if not isinstance(wire, Mapping):
            raise WireFormatError(f"a stored message is an object, not {type(wire).__name__}")
        if wire.get("v") != WIRE_VERSION:
            raise WireFormatError(
                f"this worker reads version {WIRE_VERSION} of a stored message, not {wire.get('v')!r}; "
                "update the workers before the publishers"
            )
        try:
            # The worker decides by these what comes after a failed delivery: an error there would be too late.
            policy = policy_of(int(wire["max_retries"]), float(wire["base_delay"]))
            return cls(
                id=_text(wire["id"]),
                value=_unpack(wire.get("value")),
                key=_unpack(wire.get("key")),
                headers=tuple((_text(name), _unpack(value)) for name, value in wire.get("headers", ())),
                destination=parse_address(wire["destination"]),
                dead_destination=parse_address(wire["dead_destination"]),
                attempt=_attempt(wire["attempt"]),
                max_retries=policy.max_retries,
                base_delay=policy.base_delay,
                failure=Failure(*map(_text, wire["failure"])) if "failure" in wire else None,
                origin=_origin(*wire["origin"]) if "origin" in wire else None,
                first_failed_at=None if "first_failed_at" not in wire else _whole(wire["first_failed_at"]),
                **{name: _text(wire[name]) for name in _TEXTS if wire.get(name) is not None},
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise WireFormatError(f"a stored message is damaged: {error!r}") from error


@cached
def dead_letter_topic(topic: str, suffix: str, brokers: str | None = None) -> KafkaAddress:
    """The dead letter topic of `topic`, cut to the length that Kafka allows."""
    return KafkaAddress(topic[: 249 - len(suffix)] + suffix, brokers)


def normalize_headers(headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> Headers:
    """Headers as pairs of text and bytes, from a mapping or from pairs; text values become UTF-8.

    Raises:
        TypeError: for a name that is not text, or a value that is neither bytes, text nor None.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    result: list[tuple[str, bytes | None]] = []
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, bytes | str | None):
            raise TypeError(f"header {name!r}={value!r}: the name is text, the value bytes, text or None")
        result.append((name, value.encode() if isinstance(value, str) else value))
    return tuple(result)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"text expected, not {type(value).__name__}")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"a whole number expected, not {type(value).__name__}")
    return value


def _origin(topic: object, partition: object, offset: object, timestamp: object) -> Origin:
    return Origin(_text(topic), _whole(partition), _whole(offset), _whole(timestamp))


def _attempt(value: Any) -> int:
    attempt = int(value)
    if not 1 <= attempt <= 1 + MAX_RETRIES_LIMIT:
        raise ValueError(f"attempt {attempt}")
    return attempt


def _pack(value: bytes | None) -> str | list[str] | None:
    """Bytes for JSON: UTF-8 as text, which stays readable and small; anything else as [base64]."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return [base64.b64encode(value).decode()]


def _unpack(value: object) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list) and len(value) == 1:
        try:
            return base64.b64decode(_text(value[0]), validate=True)
        except binascii.Error as error:
            raise ValueError(str(error)) from error
    raise TypeError("neither text nor [base64]")
