"""What the Kafka destination asks of a client library."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from .. import Delivered, Rejected, Unavailable


class ProducerRecord(NamedTuple):
    """A record to produce.

    Attributes:
        topic: a valid topic name.
        partition: a fixed partition; None lets the key decide, as Kafka's Java client does.
        key, value: bytes; None where the record has none.
        headers: pairs in their order; names may repeat. Every name can be encoded as UTF-8.
    """

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class TooLarge(Rejected):
    """The record is larger than the client or the broker allows. Compressed, it may fit."""


Produced = Delivered | Rejected | TooLarge | Unavailable

#: Waits for the confirmations: one outcome for each record, in their order. It never raises.
Wait = Callable[[], list[Produced]]


class KafkaClient(Protocol):
    """A producer for one set of brokers. Several threads may use it at once."""

    def start(self, records: Sequence[ProducerRecord]) -> Wait:
        """Hand over records; the returned function waits until `acks=all` has confirmed each one, or it has failed.

        - One record that is refused does not affect the others.
        - A partition that does not exist is `Rejected`. An unknown topic is `Unavailable`: it may be created later.
        - Brokers that do not answer within the delivery timeout are `Unavailable`.
        """

    def close(self, timeout_s: float) -> None:
        """Close the connections within `timeout_s`. It never raises.

        A record that is not confirmed by then was not reported as delivered either, so it will be delivered again.
        """


def never_free(thing: object) -> None:
    """Keep an object until the process ends, its interpreter's shutdown included."""
    # This reference is never given back.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def where(topic: str, partition: int, offset: int) -> Delivered:
    """The outcome of a confirmed record."""
    return Delivered(f"kafka:{topic}[{partition}]@{offset}")
