"""Pure decisions after a failed attempt: a retry or a dead letter, and when."""

from __future__ import annotations

from .decide import (
    REJECTED,
    RETRIES_EXHAUSTED,
    WORKER_LOST,
    DeadLetter,
    Decision,
    Retry,
    decide,
    outage_delay_s,
)
from .failure import MAX_ERROR_TEXT, MAX_STACKTRACE, Failure
from .policy import (
    BASE_DELAY_MAX_S,
    BASE_DELAY_MIN_S,
    DEFAULT_BASE_DELAY_S,
    DEFAULT_MAX_RETRIES,
    MAX_DELAY_S,
    MAX_RETRIES_LIMIT,
    RetryPolicy,
    policy_of,
)

__all__ = [
    "BASE_DELAY_MAX_S",
    "BASE_DELAY_MIN_S",
    "DEFAULT_BASE_DELAY_S",
    "DEFAULT_MAX_RETRIES",
    "MAX_DELAY_S",
    "MAX_ERROR_TEXT",
    "MAX_RETRIES_LIMIT",
    "MAX_STACKTRACE",
    "REJECTED",
    "RETRIES_EXHAUSTED",
    "WORKER_LOST",
    "DeadLetter",
    "Decision",
    "Failure",
    "Retry",
    "RetryPolicy",
    "decide",
    "outage_delay_s",
    "policy_of",
]
