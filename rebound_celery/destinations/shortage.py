"""Tells whether a post failed because this process has no file descriptors or threads left.

This says nothing of the receiver, and the post has not begun: sockets and threads are made before it is sent.
"""

from __future__ import annotations

import errno

from ..no_thread import is_no_thread

_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})


def is_shortage(error: BaseException) -> bool:
    """Whether this error, or one that caused it, is a lack of file descriptors or threads."""
    cause: BaseException | None = error
    while cause is not None:
        if is_no_thread(cause) or (isinstance(cause, OSError) and cause.errno in _NO_DESCRIPTORS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
