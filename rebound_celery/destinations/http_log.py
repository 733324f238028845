"""Keeps the queries of URLs, and what receivers send, out of urllib3's log lines about posts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: The longest argument of such a line.
_MOST = 200


class _Posting(threading.local):
    """Whether this thread posts: other code of the process may use urllib3 too, and its lines stay as they are."""

    is_on = False


_posting = _Posting()


def _without_query(record: logging.LogRecord) -> bool:
    if _posting.is_on and isinstance(record.args, tuple):
        record.args = tuple(
            argument if isinstance(argument, int) else str(argument).partition("?")[0][:_MOST]
            for argument in record.args
        )
        # The stack shows the receiver's bytes, and nothing that an operator can mend.
        record.exc_info = None
    return True


for _name in ("urllib3.connection", "urllib3.connectionpool"):
    logging.getLogger(_name).addFilter(_without_query)


@contextmanager
def hidden_queries() -> Iterator[None]:
    """In this block, urllib3 logs URLs without their queries, and errors without their stack."""
    _posting.is_on = True
    try:
        yield
    finally:
        _posting.is_on = False
