"""The history of a message: when, why and where its last attempts failed."""

from __future__ import annotations

import msgspec

from ..policy import Failure

#: How many attempts a message remembers: the newest.
MAX_PAST_ATTEMPTS = 10

#: Bounds for the texts of one attempt, in characters.
MAX_PAST_ERROR = 200
MAX_BY = 100


class PastAttempt(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """An attempt that failed.

    Attributes:
        attempt: which one; 1 is the first.
        failed_at_ms: when, in Unix milliseconds.
        error: why, as "Class: text"; empty where nobody said.
        by: who tried: `consumer <group>@<host>`, or the name of a Celery worker.
    """

    attempt: int
    failed_at_ms: int
    error: str
    by: str


History = tuple[PastAttempt, ...]


def add_attempt(history: History, attempt: int, failed_at_ms: int, failure: Failure | None, by: str) -> History:
    """Return a history with one more attempt, without its oldest one where it would become too long."""
    error = "" if failure is None else str(failure)[:MAX_PAST_ERROR]
    entry = PastAttempt(attempt, failed_at_ms, error, by if len(by) <= MAX_BY else by[:MAX_BY])
    return (*history[1 - MAX_PAST_ATTEMPTS :], entry) if history else (entry,)


def bounded(history: History) -> History:
    """Return a history that another program wrote, cut to the bounds that this module keeps."""
    return tuple(
        PastAttempt(past.attempt, past.failed_at_ms, past.error[:MAX_PAST_ERROR], past.by[:MAX_BY])
        for past in history[-MAX_PAST_ATTEMPTS:]
    )
