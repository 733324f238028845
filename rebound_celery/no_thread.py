"""Tells whether the system gives this process no further thread."""

from __future__ import annotations

#: What Python says then. The error has no class of its own.
_NO_THREAD = "can't start new thread"


def is_no_thread(error: BaseException) -> bool:
    """Whether Python could not start a thread."""
    return isinstance(error, RuntimeError) and _NO_THREAD in str(error)
