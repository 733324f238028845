"""What follows a failed attempt: the one place where that is decided.

`schedule_retry`, the consumer and the delivery all call `decide`. It reads no clock and changes nothing.
"""

from __future__ import annotations

from typing import Final

import msgspec

from .failure import Failure
from .policy import MAX_DELAY_S, RetryPolicy

#: Why a message became a dead letter: the values of the header `rebound-reason`.
RETRIES_EXHAUSTED: Final = "retries-exhausted"
REJECTED: Final = "rejected"
WORKER_LOST: Final = "worker-lost"


class Retry(msgspec.Struct, frozen=True, gc=False):
    """The decision to deliver the message again: at `due_ms` (Unix milliseconds), as attempt `attempt`."""

    due_ms: int
    attempt: int


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """The decision to give the message up; `reason` is one of this module's constants."""

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
        failure: why it failed; None where nobody says.
        first_failed_at_ms: when the first attempt failed, in Unix milliseconds; None where that is not known.
        now_ms: when this attempt failed, in Unix milliseconds.
    """
    if failure is not None and failure.permanent:
        return DeadLetter(REJECTED)
    if attempt > policy.max_retries:
        return DeadLetter(RETRIES_EXHAUSTED)
    delay_s = policy.delay_s(attempt)
    if failure is not None and failure.retry_after_s is not None and failure.retry_after_s > delay_s:
        # The destination knows better than the policy when it can take the message.
        delay_s = min(failure.retry_after_s, MAX_DELAY_S)
    return Retry(now_ms + round(delay_s * 1000), attempt + 1)


def outage_delay_s(tries: int, first_s: float, longest_s: float) -> float:
    """Return the seconds to wait before a delivery is tried again whose destination is away.

    Args:
        tries: how often it was tried again before; 0 the first time.
        first_s: the delay of the first time. It doubles with each further one.
        longest_s: the longest that the delay becomes.
    """
    doubled: float = first_s * 2 ** min(tries, 30)
    return min(doubled, longest_s)
