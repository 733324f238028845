"""What follows from a failed attempt of which a caller tells: the first retry that rebound makes, or a dead letter."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..policy import DeadLetter, Draw, Failure, Retry, RetryPolicy, decide
from .address import Address
from .history import History, add_attempt
from .message import dead_destination_of

#: The next attempt; when it is due in Unix milliseconds, or None if the message is dropped; the time of the first
#: failure; the reason of a dead letter; where a dead letter goes; the failure; the history. A plain tuple, because a
#: class takes much longer.
After = tuple[int, int | None, int | None, str | None, Address, Failure | None, History]

logger = logging.getLogger(__name__)


def after_failure(
    policy: RetryPolicy,
    attempt: int,
    failure: Failure | None,
    error: BaseException | str | None,
    destination: Address,
    dead: Address,
    *,
    now_ms: int,
    by: str,
    draw: Draw,
    redact: Callable[[Failure], Failure],
) -> After:
    """Return what follows when attempt `attempt` has failed, and rebound hears of the message for the first time.

    Args:
        policy: the message's policy.
        attempt: the attempt that failed; 1 is the first.
        failure: the failure; None if it is not known.
        error: the exception, or the caller's text.
        destination: where the message goes, for the log.
        dead: where its dead letter goes, if neither the policy nor the error says another place.
        now_ms: the time in Unix milliseconds.
        by: who tried, for the history.
        draw: returns a random number from 0 to 1, for the jitter.
        redact: returns what is kept of a failure.
    """
    raised = error if isinstance(error, BaseException) else None
    decision = decide(policy, attempt, failure, first_failed_at_ms=now_ms, now_ms=now_ms, error=raised, draw=draw)
    if isinstance(decision, DeadLetter) and raised is not None:
        # Only a dead letter carries the stack trace.
        failure = redact(Failure.of(raised, with_stack=True))
    history = add_attempt((), attempt, now_ms, failure, by)
    if isinstance(decision, Retry):
        return decision.attempt, decision.due_ms, now_ms, None, dead, failure, history
    if isinstance(decision, DeadLetter):
        dead = dead_destination_of(decision, dead)
        return attempt, now_ms, now_ms, decision.reason, dead, failure, history
    logger.warning(
        "a message for %s is dropped (%s): %s",
        destination,
        decision.reason,
        failure,
        extra={"event": "dropped", "reason": decision.reason},
    )
    return attempt, None, now_ms, None, dead, failure, history
