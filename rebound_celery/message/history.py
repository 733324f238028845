"""The history of a message: when, why and where its last attempts failed."""

from __future__ import annotations

import msgspec

from ..policy import Failure

#: The largest number of attempts in a history. It keeps the newest.
MAX_PAST_ATTEMPTS = 10

#: Bounds for the texts of one attempt, in characters.
MAX_PAST_ERROR = 200
MAX_BY = 100


class PastAttempt(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An attempt that failed.

    Attributes:
        attempt: the number of the attempt; 1 is the first.
        failed_at_ms: the time of the failure, in Unix milliseconds.
        error: the error as "Class: text"; empty if the caller gave none.
        by: the process that made the attempt: `consumer <group>@<host>`, or the name of a Celery worker.
    """

    attempt: int
    failed_at_ms: int
    error: str
    by: str


History = tuple[PastAttempt, ...]


def add_attempt(history: History, attempt: int, failed_at_ms: int, failure: Failure | None, by: str) -> History:
    """Return a history with one more attempt. A full history loses its oldest attempt."""
    error = "" if failure is None else str(failure)[:MAX_PAST_ERROR]
    entry = PastAttempt(attempt, failed_at_ms, error, by if len(by) <= MAX_BY else by[:MAX_BY])
    return (*history[1 - MAX_PAST_ATTEMPTS :], entry) if history else (entry,)


def bounded(history: History) -> History:
    """Return a history that another program wrote, cut to the bounds of this module."""
    return tuple(
        PastAttempt(past.attempt, past.failed_at_ms, past.error[:MAX_PAST_ERROR], past.by[:MAX_BY])
        for past in history[-MAX_PAST_ATTEMPTS:]
    )
