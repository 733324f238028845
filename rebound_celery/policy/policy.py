"""When a failed attempt is tried again: pure functions of the policy, the attempt and the time."""

from __future__ import annotations

from dataclasses import dataclass

from ..caching import cached
from ..errors import InvalidSettingError

MAX_RETRIES_LIMIT = 100
BASE_DELAY_MIN_S = 1
BASE_DELAY_MAX_S = 3600

#: No delay is longer than this. Doubling 3600 s a hundred times would leave the range of dates.
MAX_DELAY_S = 10 * 365 * 86_400

DEFAULT_MAX_RETRIES = 3
DEFAULT_BASE_DELAY_S = 5


@dataclass(frozen=True, slots=True)
class Retry:
    """The decision to deliver the message again: at `due_ms` (Unix milliseconds), as attempt `attempt`."""

    due_ms: int
    attempt: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The decision to give the message up; `reason` is one of the fixed words of `message.Reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how long apart a failed message is tried again.

    Retry n follows failed attempt n and waits `base_delay * 2**(n-1)` seconds: `max_retries=3, base_delay=5` waits
    5, 10 and 20 s. The handler is called `1 + max_retries` times in all; then the message is a dead letter.

    Args:
        max_retries: whole number from 0 to 100. 0 means none: the first failure makes a dead letter.
        base_delay: seconds before the first retry, from 1 to 3600; fractions are allowed.
            No single delay exceeds ten years.

    Raises:
        InvalidSettingError: for any other value.
    """

    max_retries: int = DEFAULT_MAX_RETRIES
    base_delay: float = DEFAULT_BASE_DELAY_S

    def __post_init__(self) -> None:
        retries, delay = self.max_retries, self.base_delay
        if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= MAX_RETRIES_LIMIT:
            raise InvalidSettingError(
                "max_retries", retries, f"it must be a whole number from 0 to {MAX_RETRIES_LIMIT}"
            )
        is_number = isinstance(delay, int | float) and not isinstance(delay, bool)
        if not is_number or not BASE_DELAY_MIN_S <= delay <= BASE_DELAY_MAX_S:
            raise InvalidSettingError(
                "base_delay",
                delay,
                f"it must be a number of seconds from {BASE_DELAY_MIN_S} to {BASE_DELAY_MAX_S}",
            )

    @property
    def attempts(self) -> int:
        """How many times a message is tried at most."""
        return 1 + self.max_retries

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after failed attempt `attempt` (1 is the first)."""
        return float(min(self.base_delay * 2 ** (attempt - 1), MAX_DELAY_S))

    def decide(self, attempt: int, now_ms: int) -> Retry | DeadLetter:
        """What follows when attempt `attempt` (1 is the first) has failed at `now_ms` (Unix milliseconds)."""
        if attempt > self.max_retries:
            return DeadLetter("retries-exhausted")
        return Retry(due_ms=now_ms + round(self.delay_s(attempt) * 1000), attempt=attempt + 1)


#: A policy by its values; see `cached`.
policy_of = cached(RetryPolicy)
