"""What Redis refuses for a while, for a reason that has nothing to do with the command.

redis-py gives most of these answers no class of their own. kombu takes every other ResponseError for a channel's error,
and Celery's worker ends of one.
"""

from __future__ import annotations

from typing import Any, ClassVar

from redis.connection import DefaultParser
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, ResponseError


class RefusedError(ResponseError):
    """Redis does not take this command now, and would take it later."""


#: What a worker waits for, as for a lost connection.
PASSING_ERRORS = (RefusedError, OutOfMemoryError, ReadOnlyError, MasterDownError)


class Parser(DefaultParser):  # type: ignore[misc, valid-type]  # hiredis' parser, or the one in Python
    """redis-py's parser, which knows more refusals by their first word, and remembers that there was one.

    Attributes:
        has_refused: whether Redis has refused something in this process, and no connection was tried out since.
    """

    has_refused: ClassVar[bool] = False

    EXCEPTION_CLASSES = {  # noqa: RUF012 - of redis-py
        **DefaultParser.EXCEPTION_CLASSES,
        # Too few replicas are connected (`min-replicas-to-write`).
        "NOREPLICAS": RefusedError,
        # The last snapshot could not be written (`stop-writes-on-bgsave-error`), as on a full disk.
        "MISCONF": RefusedError,
        # Somebody's script runs for longer than `busy-reply-threshold`.
        "BUSY": RefusedError,
        # The server became a replica while it held a blocking command.
        "UNBLOCKED": RefusedError,
    }

    @classmethod
    def parse_error(cls, response: Any) -> Any:
        error = super().parse_error(response)
        if isinstance(error, PASSING_ERRORS):
            Parser.has_refused = True
        return error
