"""Decides what follows a failed attempt: a retry, a dead letter, or nothing.

`schedule_retry`, the consumer and the delivery all call `decide`. It reads no clock and changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import msgspec

from .causes import instruction_of, names_of
from .checks import MAX_DELAY_S
from .failure import Failure
from .instructions import DeadLetter as DeadLetterAsked
from .instructions import Drop as DropAsked
from .policy import FULL_JITTER, NO_JITTER, RetryPolicy
from .rules import DROP, RETRY, ErrorRule

#: Reasons of dead letters: values of the header `rebound-reason`. A handler may give other ones.
RETRIES_EXHAUSTED: Final = "retries-exhausted"
BUDGET_EXHAUSTED: Final = "budget-exhausted"
REJECTED: Final = "rejected"
RULE: Final = "rule"
UNDECODABLE: Final = "undecodable"
WORKER_LOST: Final = "worker-lost"

#: Returns a random number from 0 to 1. Tests give the method `random` of a seeded `random.Random`.
Draw = Callable[[], float]


class Retry(msgspec.Struct, frozen=True, gc=False):
    """The decision to deliver the message again at `due_ms` (Unix milliseconds), for attempt `attempt`."""

    due_ms: int
    attempt: int


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """The decision to make the message a dead letter.

    Attributes:
        reason: one of this module's constants, or the handler's own text.
        topic: the dead letter topic; None means the message's own destination of dead letters.
    """

    reason: str
    topic: str | None = None


class Drop(msgspec.Struct, frozen=True, gc=False):
    """The decision to forget the message. `reason` is for the log."""

    reason: str


Decision = Retry | DeadLetter | Drop

# The functions of the module `random`, and not an instance: the module seeds itself anew in a forked process.
DRAW: Draw = random.random


def decide(
    policy: RetryPolicy,
    attempt: int,
    failure: Failure | None,
    *,
    first_failed_at_ms: int | None,
    now_ms: int,
    error: BaseException | None = None,
    draw: Draw = DRAW,
) -> Decision:
    """Decide what follows when attempt `attempt` has failed.

    Args:
        policy: the message's policy.
        attempt: the attempt that failed; 1 is the first.
        failure: the failure; None if it is not known.
        first_failed_at_ms: the time at which the first attempt failed, in Unix milliseconds; None if it is not known.
        now_ms: the time at which this attempt failed, in Unix milliseconds.
        error: the exception, for the rules by error and for the handler's instructions; None if there is none. Then
            the rules get the name of the class in `failure`.
        draw: returns a random number from 0 to 1, for the jitter.
    """
    instruction = None if error is None else instruction_of(error)
    rule = _rule_for(policy, failure, error) if policy.rules else None
    topic = None if rule is None else rule.dead_letter_topic
    if instruction is None:
        if rule is not None and rule.then != RETRY:
            return Drop(RULE) if rule.then == DROP else DeadLetter(RULE, topic)
    elif isinstance(instruction, DropAsked):
        return Drop(instruction.reason)
    elif isinstance(instruction, DeadLetterAsked):
        return DeadLetter(instruction.reason, topic if instruction.topic is None else instruction.topic)
    if failure is not None and failure.permanent:
        return DeadLetter(REJECTED, topic)
    if attempt > policy.max_retries:
        return DeadLetter(RETRIES_EXHAUSTED, topic)
    delay_s = _delay_s(policy, attempt, failure, rule, draw) if instruction is None else instruction.seconds
    longest_s = MAX_DELAY_S if policy.max_delay is None else policy.max_delay
    # A delay is rounded to whole milliseconds, but never above the limit.
    delay_ms = round(delay_s * 1000)
    if delay_ms > longest_s * 1000:
        delay_ms = int(longest_s * 1000)
    if policy.budget is not None:
        began_ms = now_ms if first_failed_at_ms is None else first_failed_at_ms
        if now_ms + delay_ms - began_ms > policy.budget * 1000:
            return DeadLetter(BUDGET_EXHAUSTED, topic)
    return Retry(now_ms + delay_ms, attempt + 1)


def _delay_s(policy: RetryPolicy, attempt: int, failure: Failure | None, rule: ErrorRule | None, draw: Draw) -> float:
    """Return the delay before the next attempt in seconds, if the handler has not said it."""
    delay_s = policy.delay_s(attempt) if rule is None or rule.delay is None else rule.delay
    if policy.jitter != NO_JITTER:
        delay_s = delay_s * draw() if policy.jitter == FULL_JITTER else delay_s / 2 * (1 + draw())
    asked_s = None if failure is None else failure.retry_after_s
    # A destination may ask for a longer wait than the policy's.
    return min(asked_s, MAX_DELAY_S) if asked_s is not None and asked_s > delay_s else delay_s


def _rule_for(policy: RetryPolicy, failure: Failure | None, error: BaseException | None) -> ErrorRule | None:
    if error is not None:
        return policy.rule_for(names_of(error))
    if failure is not None and failure.exception_class:
        return policy.rule_for(frozenset((failure.exception_class,)))
    return None


def outage_delay_s(tries: int, first_s: float, longest_s: float) -> float:
    """Return the delay in seconds before the next try of a delivery whose destination does not answer.

    Args:
        tries: how many times the delivery was tried again already; 0 after the first try.
        first_s: the first delay in seconds. Each further delay is twice as long.
        longest_s: the longest delay in seconds.
    """
    doubled: float = first_s * 2 ** min(tries, 30)
    return min(doubled, longest_s)
