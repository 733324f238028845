"""Tells whether a post failed because this process has no file descriptors or threads left.

This says nothing of the receiver, and the post has not begun: sockets and threads are made before it is sent.
"""

from __future__ import annotations

import errno
import os

from ..no_thread import is_no_thread

_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})

#: How many file descriptors a look-up of a host may need at once.
_FOR_LOOK_UP = 2


def is_shortage(error: BaseException) -> bool:
    """Whether this error, or one that caused it, is a lack of file descriptors or threads."""
    cause: BaseException | None = error
    while cause is not None:
        if is_no_thread(cause) or (isinstance(cause, OSError) and cause.errno in _NO_DESCRIPTORS):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def shortage_now() -> OSError | None:
    """The error that this process gets now if it opens the files and sockets of a look-up; None if it gets none.

    `getaddrinfo` does not tell it: without a descriptor for /etc/hosts or a socket, it does not know the name.
    """
    opened: list[int] = []
    try:
        while len(opened) < _FOR_LOOK_UP:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error if is_shortage(error) else None
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return None
