"""Destinations of messages: one module or package for each kind, all with the same Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import AttemptFailedError, DeliveryError, OutageError, RejectedError
from ..message import Message


@dataclass(frozen=True, slots=True)
class Delivered:
    """The destination has confirmed the message.

    Attributes:
        where: the place of the message now, for logs and Flower: `kafka:orders[3]@1207`.
    """

    where: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The destination has answered with a failure: this attempt is used up.

    Attributes:
        error: the error text, with the destination's name.
        retry_after_s: the least delay before the next attempt that the destination asks for, in seconds; None if it
            asks for none.
        status: the status of the HTTP answer; None where there was none.
    """

    error: str
    retry_after_s: float | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The destination will never take this message: it becomes a dead letter at once.

    Attributes:
        error: the destination's answer, with its name.
    """

    error: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The destination does not answer: the message waits and is delivered later. No attempt is used up.

    Attributes:
        error: the error text, with the destination's name.
    """

    error: str


Undelivered = Failed | Rejected | Unavailable
#: The outcome of one delivery.
Outcome = Delivered | Undelivered

#: The exception that users see for an outcome: in `AsyncResult`, and in the headers of a dead letter.
_EXCEPTIONS: dict[type[Undelivered], type[DeliveryError]] = {
    Failed: AttemptFailedError,
    Rejected: RejectedError,
    Unavailable: OutageError,
}


def exception_of(outcome: Undelivered) -> DeliveryError:
    """Return the exception that users see for `outcome`: in `AsyncResult`, and in the headers of a dead letter."""
    return _EXCEPTIONS[type(outcome)](outcome.error)


class Destination(Protocol):
    """Delivers messages to one kind of address."""

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        """Deliver each message to its `target` and wait for the confirmations.

        Returns one outcome for each message, in the order of the messages. It never raises: one bad message must not
        stop the others.
        """

    def close(self) -> None:
        """Close connections. A closed destination may be used again; it connects anew."""
