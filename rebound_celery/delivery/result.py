"""The results of deliveries: how each one ended for the worker."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from ..clock import Clock
from ..destinations import Delivered
from ..message import Message
from ..policy import Drop, Failure
from ..schedule.port import Tally
from ..stopping import is_stopping
from .delivery import Delivery
from .log_fields import log_fields, named

#: Seconds before messages go back to their queue.
_BACK_PAUSE_S = 1.0

logger = logging.getLogger(__name__)


class End(StrEnum):
    """How a delivery ended for the worker."""

    #: The destination has the message.
    DONE = "done"
    #: The message was given up: its dead letter is written.
    DEAD = "dead"
    #: A rule of the message's policy drops it: nothing is kept of it.
    DROPPED = "dropped"
    #: The same task waits again in Redis, with what has changed.
    AGAIN = "again"
    #: Nothing could be settled: the broker's message goes back to its queue.
    BACK = "back"


class Result(NamedTuple):
    """How one delivery ended.

    Attributes:
        end: what the worker does about it.
        text: where the message is, or why it is not there; for people.
        traceback: of a dead letter, the stack trace of the failure, where there is one.
    """

    end: End
    text: str
    traceback: str = ""


class Results(list[Result]):
    """The results of a job, in the order of its messages.

    Attributes:
        tally: what is added to the counters with the end of the leases on its messages. What is stored again has
            counted already.
    """

    tally: Tally | None = None


def pause_before_back(results: Iterable[Result], clock: Clock) -> None:
    """Wait if one of these messages goes back to its queue, where it is due at once.

    Without a pause, a fault of this process alone would be met again at full speed.
    """
    if any(result.end == End.BACK for result in results) and not is_stopping():
        clock.sleep(_BACK_PAUSE_S)


def dead_letter_text(message: Message) -> str:
    """Why a message was given up: the reason and the last error, as `AsyncResult`, events and Flower show them."""
    return str(message.reason) if message.failure is None else f"{message.reason}: {message.failure}"


def delivered(delivery: Delivery, outcome: Delivered) -> Result:
    """Log that a destination has the message, and return its result."""
    message = delivery.message
    if message.reason is None:
        if logger.isEnabledFor(logging.INFO):
            logger.info(
                "delivered %s: %s", named(message), outcome.where, extra={"event": "delivered", **log_fields(message)}
            )
        return Result(End.DONE, outcome.where)
    text = dead_letter_text(message)
    logger.warning(
        "%s; its dead letter is at %s: %s",
        named(message),
        outcome.where,
        text,
        extra={"event": "dead_letter_written", **log_fields(message)},
    )
    return Result(End.DEAD, text, message.failure.stacktrace if message.failure is not None else "")


def dropped(message: Message, decision: Drop, failure: Failure) -> Result:
    logger.warning(
        "%s failed with %s; it is dropped: %s",
        named(message),
        failure,
        decision.reason,
        extra={"event": "dropped", **log_fields(message)},
    )
    return Result(End.DROPPED, f"dropped ({decision.reason}): {failure}")
