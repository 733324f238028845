"""The names and attributes of spans, by OpenTelemetry's semantic conventions for messaging.

Keys, values and headers of messages are no attributes. Names that begin with `rebound.` are rebound's own.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from ..message import Message, Record
from ..message.address import Address, HttpAddress, KafkaAddress

Attributes = dict[str, str | int | bool]

ERROR_TYPE = "error.type"
#: What follows an attempt that failed: "retry", "dead-letter" or "drop".
OUTCOME = "rebound.outcome"
_ATTEMPT = "rebound.attempt"
_REASON = "rebound.reason"

_SYSTEM = "messaging.system"
_DESTINATION = "messaging.destination.name"
_PARTITION = "messaging.destination.partition.id"
_OFFSET = "messaging.kafka.offset"
_HTTP_STATUS = "http.response.status_code"

#: The place of a record that Kafka has confirmed, at the end of `Delivered.where`.
_PLACE = re.compile(r"\[(\d+)\]@(\d+)")


class Named(NamedTuple):
    """A span's name and its attributes at its beginning."""

    name: str
    attributes: Attributes


def of_attempt(record: Record, group: str) -> Named:
    """Describe a call of the handler."""
    attributes: Attributes = {
        _SYSTEM: "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        _DESTINATION: record.topic,
        _PARTITION: str(record.partition),
        _OFFSET: record.offset,
        "messaging.consumer.group.name": group,
        "messaging.message.id": record.id,
        _ATTEMPT: record.attempt,
    }
    if record.value is None:
        attributes["messaging.kafka.message.tombstone"] = True
    return Named(f"process {record.topic}", attributes)


def of_wait(message: Message, queue: str) -> Named:
    """Describe the time that a message waits in Redis."""
    attributes: Attributes = {
        _SYSTEM: "redis",
        "messaging.operation.name": "receive",
        "messaging.operation.type": "receive",
        _DESTINATION: queue,
    }
    return Named(f"receive {queue}", attributes | _of_message(message))


def of_delivery(message: Message) -> Named:
    """Describe a delivery to a topic, a URL, or the dead set."""
    system, destination, attributes = _of_target(message.target)
    attributes |= {
        _SYSTEM: system,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        _DESTINATION: destination,
    }
    return Named(f"publish {destination}", attributes | _of_message(message))


def name_of(kind: type[BaseException]) -> str:
    """Return the name of a class of errors, as dead letters have it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def of_place(message: Message, where: str) -> Attributes:
    """Describe where a message has arrived."""
    found = _PLACE.search(where) if isinstance(message.target, KafkaAddress) else None
    return {} if found is None else {_PARTITION: found[1], _OFFSET: int(found[2])}


def of_failure(error_type: str, status: int | None) -> Attributes:
    """Describe why a delivery has failed. The status of an HTTP answer is the type of the error."""
    if status is None:
        return {ERROR_TYPE: error_type}
    return {ERROR_TYPE: str(status), _HTTP_STATUS: status}


def _of_message(message: Message) -> Attributes:
    attributes: Attributes = {"messaging.message.id": message.id, _ATTEMPT: message.attempt}
    if message.reason is not None:
        attributes[_REASON] = message.reason
    return attributes


def _of_target(target: Address) -> tuple[str, str, Attributes]:
    """Return the messaging system, the destination's name, and what else is known of the destination."""
    if isinstance(target, KafkaAddress):
        return "kafka", target.topic, {}
    if isinstance(target, HttpAddress):
        # The path may hold the ids of customers, and user, password and query may be secret.
        parts = urlsplit(target.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        return "http", host, {"http.request.method": "POST", "server.address": host, "server.port": port}
    return "redis", str(target), {}
