"""The log lines about deliveries that did not arrive: what failed, and what follows."""

from __future__ import annotations

import logging

from ..destinations import Held, Outcome, Unavailable, Undelivered
from ..message import Message
from ..policy import Decision, Failure, Retry
from ..stopping import is_stopping
from .log_fields import log_fields, named

_NOTHING_FOLLOWS = "nothing follows, because it was delivered in the caller's process"

logger = logging.getLogger(__name__)


def log_failure(message: Message, decision: Decision, failure: Failure, now_ms: int, *, is_kept: bool) -> None:
    """Log that an attempt has failed, and whether another one follows."""
    if not isinstance(decision, Retry):
        follows = "it is given up"
    elif is_kept:
        follows = f"attempt {decision.attempt} follows in {(decision.due_ms - now_ms) / 1000:.1f} s"
    else:
        follows = _NOTHING_FOLLOWS
    logger.warning(
        "%s failed with %s; %s",
        named(message),
        failure,
        follows,
        extra={"event": "failed" if isinstance(decision, Retry) else "given_up", **log_fields(message)},
    )


def log_outage(message: Message, outcome: Undelivered, error: str, delay_s: float, *, is_kept: bool) -> None:
    """Log that a message is tried again, because its destination is away or refuses a dead letter.

    Args:
        message: the message.
        outcome: what its destination did.
        error: the part of the outcome's error that is logged.
        delay_s: the time until the next try, in seconds.
        is_kept: whether the message is stored for the next try.
    """
    follows = f"it stays scheduled and is tried again in {delay_s:.1f} s" if is_kept else _NOTHING_FOLLOWS
    if message.reason is not None and not isinstance(outcome, Unavailable):
        logger.critical(
            "the dead letter %s is refused by its destination; %s: %s",
            named(message),
            follows,
            error,
            extra={"event": "dead_letter_refused", **log_fields(message)},
        )
        return
    logger.log(
        logging.WARNING if message.reason is None else logging.CRITICAL,
        "the destination of %s is away; %s: %s",
        named(message),
        follows,
        error,
        extra={"event": "outage", **log_fields(message)},
    )


def log_held(message: Message, outcome: Held) -> None:
    """Tell that a destination is not to be given a message now."""
    logger.log(
        # A stop is rare, and what it leaves waiting is news.
        logging.INFO if is_stopping() else logging.DEBUG,
        "%s waits: %s",
        named(message),
        outcome.error,
        extra={"event": "held", **log_fields(message)},
    )


def log_unsettled(message: Message, outcome: Outcome, error: Exception) -> None:
    """Tell that the outcome of a delivery is lost, because Redis did not take it."""
    logger.warning(
        "the outcome of %s could not be stored, so it is delivered again: %s: %s",
        named(message),
        outcome,
        error,
        extra={"event": "not_stored", **log_fields(message)},
    )
