"""Destinations of messages: one module or package for each kind, all with the same Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
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
        is_about_message: whether the answer is about this message, and says that the destination itself works. Circuit
            breakers do not count it as a failure.
    """

    error: str
    retry_after_s: float | None = None
    status: int | None = None
    is_about_message: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """The destination will never take this message: it becomes a dead letter at once.

    Attributes:
        error: the destination's answer, with its name.
        status: the status of the HTTP answer; None where there was none.
    """

    error: str
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """The destination does not answer: the message waits and is delivered later. No attempt is used up.

    Attributes:
        error: the error text, with the destination's name.
    """

    error: str


@dataclass(frozen=True, slots=True)
class Held:
    """The destination is not to be given the message now: it waits. No attempt is used up, and no try is counted.

    Attributes:
        error: why, with the destination's name.
        delay_s: how long it waits at least, in seconds.
        lane: where it waits; None for the lane of its address.
    """

    error: str
    delay_s: float
    lane: str | None = None


Undelivered = Failed | Rejected | Unavailable | Held
#: The outcome of one delivery.
Outcome = Delivered | Undelivered


@dataclass(frozen=True, slots=True)
class Underway:
    """The destination takes so long to answer that its answer is not waited for: other deliveries must not wait.

    Attributes:
        error: what is waited for, with the destination's name.
        within_s: seconds until the outcome is there at the latest. If it is not, this process is gone.
        outcome: becomes the outcome.
    """

    error: str
    within_s: float
    outcome: Future[Outcome]


#: The exception that users see for an outcome: in `AsyncResult`, and in the headers of a dead letter.
_EXCEPTIONS: dict[type[Undelivered], type[DeliveryError]] = {
    Failed: AttemptFailedError,
    Rejected: RejectedError,
    Unavailable: OutageError,
    Held: OutageError,
}


def exception_of(outcome: Undelivered) -> DeliveryError:
    """Return the exception that users see for `outcome`: in `AsyncResult`, and in the headers of a dead letter."""
    return _EXCEPTIONS[type(outcome)](outcome.error)


class Destination(Protocol):
    """Delivers messages to one kind of address."""

    def send(self, messages: Sequence[Message]) -> Sequence[Outcome | Underway]:
        """Deliver each message to its `target` and wait for the confirmations.

        Returns one outcome for each message, in the order of the messages. It never raises: one bad message must not
        stop the others.
        """

    def close(self) -> None:
        """Close connections, once what is under way has its outcome.

        A closed destination may be used again; it connects anew.
        """
