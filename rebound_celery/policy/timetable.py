"""The timetable of a policy: when each attempt is made if every attempt fails."""

from __future__ import annotations

from dataclasses import dataclass

from .decide import Retry, decide
from .policy import RetryPolicy


@dataclass(frozen=True, slots=True)
class Row:
    """An attempt in the timetable, or the dead letter at its end.

    Attributes:
        attempt: the number of the attempt; on the dead letter, of the last attempt.
        least_s, longest_s: the delay before it in seconds. Without jitter they are equal.
        after_s: the time since the first attempt in seconds, with the longest delays.
        at_ms: the time of day, in Unix milliseconds.
        reason: the reason of the dead letter; None on an attempt.
    """

    attempt: int
    least_s: float
    longest_s: float
    after_s: float
    at_ms: int
    reason: str | None = None


def timetable(policy: RetryPolicy, now_ms: int) -> list[Row]:
    """Return the attempts of a message that always fails, with the longest delays that jitter can give.

    Args:
        policy: the policy.
        now_ms: when the message comes, in Unix milliseconds. An attempt itself takes no time here.
    """
    first_s = policy.first_delay or 0
    first_ms = at_ms = now_ms + round(first_s * 1000)
    rows = [Row(1, first_s, first_s, 0, at_ms)]
    while True:
        attempt = rows[-1].attempt
        decision = decide(policy, attempt, None, first_failed_at_ms=first_ms, now_ms=at_ms, draw=lambda: 1.0)
        if not isinstance(decision, Retry):
            return [*rows, Row(attempt, 0, 0, rows[-1].after_s, at_ms, decision.reason)]
        least = decide(policy, attempt, None, first_failed_at_ms=first_ms, now_ms=at_ms, draw=lambda: 0.0)
        least_ms = (least.due_ms if isinstance(least, Retry) else decision.due_ms) - at_ms
        longest_ms = decision.due_ms - at_ms
        at_ms = decision.due_ms
        rows.append(Row(decision.attempt, least_ms / 1000, longest_ms / 1000, (at_ms - first_ms) / 1000, at_ms))
