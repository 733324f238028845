"""Decides what follows a failed attempt: a retry or a dead letter.

`schedule_retry`, the consumer and the delivery all call `decide`. It reads no clock and changes nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .failure import Failure
from .policy import MAX_DELAY_S, RetryPolicy

#: Reasons of dead letters: values of the header `rebound-reason`.
RETRIES_EXHAUSTED: Final = "retries-exhausted"
REJECTED: Final = "rejected"
WORKER_LOST: Final = "worker-lost"


class Retry(msgspec.Struct, frozen=True, gc=False):
    """The decision to deliver the message again at `due_ms` (Unix milliseconds), for attempt `attempt`."""

    due_ms: int
    attempt: int


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """The decision to make the message a dead letter. `reason` is one of this module's constants."""

    reason: str


Decision = Retry | DeadLetter


def decide(
    policy: RetryPolicy,
    attempt: int,
    failure: Failure | None,
    *,
    first_failed_at_ms: int | None,  # noqa: ARG001 - for policies with a limit on age
    now_ms: int,
) -> Decision:
    """Decide what follows when attempt `attempt` has failed.

    Args:
        policy: the message's policy.
        attempt: the attempt that failed; 1 is the first.
        failure: the failure; None if it is not known.
        first_failed_at_ms: the time at which the first attempt failed, in Unix milliseconds; None if it is not known.
        now_ms: the time at which this attempt failed, in Unix milliseconds.
    """
    if failure is not None and failure.permanent:
        return DeadLetter(REJECTED)
    if attempt > policy.max_retries:
        return DeadLetter(RETRIES_EXHAUSTED)
    delay_s = policy.delay_s(attempt)
    if failure is not None and failure.retry_after_s is not None and failure.retry_after_s > delay_s:
        # The destination has asked for a longer wait than the policy's.
        delay_s = min(failure.retry_after_s, MAX_DELAY_S)
    return Retry(now_ms + round(delay_s * 1000), attempt + 1)


def outage_delay_s(tries: int, first_s: float, longest_s: float) -> float:
    """Return the delay in seconds before the next try of a delivery whose destination does not answer.

    Args:
        tries: how many times the delivery was tried again already; 0 after the first try.
        first_s: the first delay in seconds. Each further delay is twice as long.
        longest_s: the longest delay in seconds.
    """
    doubled: float = first_s * 2 ** min(tries, 30)
    return min(doubled, longest_s)
