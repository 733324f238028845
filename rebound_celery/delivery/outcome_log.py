"""The log lines about deliveries that did not arrive: what failed, and what follows."""

from __future__ import annotations

import logging

from ..destinations import Held, Outcome, Unavailable, Undelivered
from ..message import Message
from ..policy import Failure, Retry
from ..stopping import is_stopping
from .log_fields import log_fields, named

logger = logging.getLogger(__name__)


def log_failure(message: Message, decision: object, failure: Failure, now_ms: int) -> None:
    """Tell that an attempt has failed, and whether another one follows."""
    if isinstance(decision, Retry):
        logger.warning(
            "%s failed with %s; attempt %d follows in %.1f s",
            named(message),
            failure,
            decision.attempt,
            (decision.due_ms - now_ms) / 1000,
            extra={"event": "failed", **log_fields(message)},
        )
    else:
        logger.warning(
            "%s failed with %s; it is given up",
            named(message),
            failure,
            extra={"event": "given_up", **log_fields(message)},
        )


def log_outage(message: Message, outcome: Undelivered, error: str, delay_s: float) -> None:
    """Log that a message is tried again, because its destination is away or refuses a dead letter: `error` says it."""
    if message.reason is not None and not isinstance(outcome, Unavailable):
        logger.critical(
            "the dead letter %s is refused by its destination, stays scheduled and is tried again in %.1f s: %s",
            named(message),
            delay_s,
            error,
            extra={"event": "dead_letter_refused", **log_fields(message)},
        )
        return
    logger.log(
        logging.WARNING if message.reason is None else logging.CRITICAL,
        "%s is tried again in %.1f s, for its destination is away: %s",
        named(message),
        delay_s,
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
