"""Pure decisions: what follows a failed attempt."""

from __future__ import annotations

from .policy import (
    BASE_DELAY_MAX_S,
    BASE_DELAY_MIN_S,
    DEFAULT_BASE_DELAY_S,
    DEFAULT_MAX_RETRIES,
    MAX_DELAY_S,
    MAX_RETRIES_LIMIT,
    DeadLetter,
    Retry,
    RetryPolicy,
    policy_of,
)

__all__ = [
    "BASE_DELAY_MAX_S",
    "BASE_DELAY_MIN_S",
    "DEFAULT_BASE_DELAY_S",
    "DEFAULT_MAX_RETRIES",
    "MAX_DELAY_S",
    "MAX_RETRIES_LIMIT",
    "DeadLetter",
    "Retry",
    "RetryPolicy",
    "policy_of",
]
