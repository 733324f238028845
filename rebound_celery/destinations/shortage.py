"""Tells whether a post failed because this process has no file descriptors or threads left.

This says nothing of the receiver, and the post has not begun: sockets and threads are made before it is sent.
"""

from __future__ import annotations

import errno

_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})

#: What Python says when the system gives it no further thread. The error has no class of its own.
_NO_THREAD = "can't start new thread"


def is_shortage(error: BaseException) -> bool:
    """Whether this error, or one that caused it, is a lack of file descriptors or threads."""
    cause: BaseException | None = error
    while cause is not None:
        if is_no_thread(cause) or (isinstance(cause, OSError) and cause.errno in _NO_DESCRIPTORS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def is_no_thread(error: BaseException) -> bool:
    """Whether Python could not start a thread."""
    return isinstance(error, RuntimeError) and _NO_THREAD in str(error)
