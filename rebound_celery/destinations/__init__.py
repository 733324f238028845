"""Where messages are delivered: one file for each kind of destination, all of one small shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import DeliveryError
from ..message import Message

#: What became of one message: where it lies now (as text for logs and Flower), or why it was not delivered.
Outcome = str | DeliveryError


class Destination(Protocol):
    """Delivers messages that share a kind of address."""

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        """Deliver each message to its `target` and wait until that is confirmed.

        Returns one outcome a message, in their order: a text once the destination has confirmed it, or a DeliveryError
        that says whether the message is delivered later (OutageError), used up an attempt (AttemptFailedError), or can
        never be taken (RejectedError). It never raises: one bad message must not stop the others.
        """

    def close(self) -> None:
        """Give back connections; what was confirmed stays so. A closed destination may be used again."""
