"""The interface between the Kafka destination and a client library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from .. import Delivered, Rejected, Unavailable

#: How long Kafka is asked for new metadata before a partition is taken for missing, in seconds.
LOOK_S = 5.0


class ProducerRecord(NamedTuple):
    """A record to produce.

    Attributes:
        topic: a valid topic name.
        partition: a fixed partition; None lets the key decide, in the same way as in Kafka's Java client.
        key, value: bytes; None if the record has none.
        headers: pairs in their order; names may repeat. Every name can be encoded as UTF-8.
    """

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class TooLarge(Rejected):
    """The record is larger than the client or the broker allows. With compression it may fit."""


@dataclass(frozen=True, slots=True)
class OfBatch:
    """Kafka has refused the whole batch of the record, perhaps because of another record.

    Attributes:
        outcome: the record's outcome if it was alone in its batch.
    """

    outcome: Rejected | Unavailable


Produced = Delivered | Rejected | TooLarge | Unavailable | OfBatch

#: Waits for the confirmations and returns one outcome for each record, in the order of the records. It never raises.
Wait = Callable[[], list[Produced]]


class KafkaClient(Protocol):
    """A producer for one set of brokers. Several threads may use it at once.

    A client that was made with `alone=True` puts no two records into one batch.
    """

    def start(self, records: Sequence[ProducerRecord]) -> Wait:
        """Hand over records. The returned function waits until each record is confirmed (`acks=all`) or has failed.

        - If Kafka refuses a batch, the outcome of each of its records may be `OfBatch`.
        - If the partition does not exist, the outcome is `Rejected`.
        - If the topic does not exist, the outcome is `Unavailable`, because the topic may be created later.
        - If the brokers do not answer within the delivery timeout, the outcome is `Unavailable`.
        """

    def close(self, timeout_s: float) -> None:
        """Close the connections within `timeout_s`. It never raises.

        A record that is not confirmed by then is not reported as delivered. So it will be delivered again.
        """


def never_free(thing: object) -> None:
    """Keep an object until the process ends. The shutdown of the interpreter does not free it either."""
    # Nobody gives this reference back.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def where(topic: str, partition: int, offset: int) -> Delivered:
    """Return the outcome of a confirmed record."""
    return Delivered(f"kafka:{topic}[{partition}]@{offset}")


def whole_names(headers: list[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """Return the headers with U+FFFD for each NUL in a name, because librdkafka ends a name at a NUL."""
    for name, _ in headers:
        if "\0" in name:
            return [(name.replace("\0", "\ufffd"), value) for name, value in headers]
    return headers
