"""Pure decisions after a failed attempt: a retry, a dead letter or nothing, and when."""

from __future__ import annotations

from .checks import MAX_DELAY_S
from .decide import (
    BUDGET_EXHAUSTED,
    REJECTED,
    RETRIES_EXHAUSTED,
    RULE,
    UNDECODABLE,
    WORKER_LOST,
    DeadLetter,
    Decision,
    Draw,
    Drop,
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
    MAX_FIRST_DELAY_S,
    MAX_RETRIES_LIMIT,
    RetryPolicy,
    policy_of,
)
from .rules import ErrorRule
from .table import PolicyTable

__all__ = [
    "BASE_DELAY_MAX_S",
    "BASE_DELAY_MIN_S",
    "BUDGET_EXHAUSTED",
    "DEFAULT_BASE_DELAY_S",
    "DEFAULT_MAX_RETRIES",
    "MAX_DELAY_S",
    "MAX_ERROR_TEXT",
    "MAX_FIRST_DELAY_S",
    "MAX_RETRIES_LIMIT",
    "MAX_STACKTRACE",
    "REJECTED",
    "RETRIES_EXHAUSTED",
    "RULE",
    "UNDECODABLE",
    "WORKER_LOST",
    "DeadLetter",
    "Decision",
    "Draw",
    "Drop",
    "ErrorRule",
    "Failure",
    "PolicyTable",
    "Retry",
    "RetryPolicy",
    "decide",
    "outage_delay_s",
    "policy_of",
]
