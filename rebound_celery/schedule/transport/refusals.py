"""How answers of Redis are read: what it refuses for a while, and an answer that does not come while the worker stops.

redis-py gives most of what passes no class of their own. kombu takes every other ResponseError for a channel's error,
and Celery's worker ends of one.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar, Final

from redis.connection import DefaultParser
from redis.exceptions import ClusterDownError, OutOfMemoryError, ReadOnlyError, ResponseError, TryAgainError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...stopping import is_stopping

#: Seconds that a worker that was told to stop waits for an answer, and those once Redis has given none in time. Celery
#: sends about ten commands one after the other while it stops, and each would have the whole time-out.
STOPPING_TIMEOUT_S: Final = 5.0
SILENT_TIMEOUT_S: Final = 0.2


class RefusedError(ResponseError):
    """Redis does not take this command now, and would take it later."""


#: What a worker waits for, as for a lost connection. A proxy in front of a cluster passes on CLUSTERDOWN while a master
#: is replaced, and TRYAGAIN while slots move. MASTERDOWN is a ClusterDownError too.
PASSING_ERRORS = (RefusedError, OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError)


class Parser(DefaultParser):  # type: ignore[misc, valid-type]  # hiredis' parser, or the one in Python
    """redis-py's parser, which knows more refusals by their first word, and does not hold up a worker that stops.

    Attributes:
        has_refused: whether Redis has refused something in this process, and no connection was tried out since.
        is_silent: whether the last answer that this process has waited for did not come in time.
    """

    has_refused: ClassVar[bool] = False
    is_silent: ClassVar[bool] = False

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

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if not is_stopping():
            return self._read(*args, **kwargs)
        socket = self._sock
        timeout = None if socket is None else socket.gettimeout()
        longest = SILENT_TIMEOUT_S if Parser.is_silent else STOPPING_TIMEOUT_S
        if socket is None or (timeout is not None and timeout <= longest):
            return self._read(*args, **kwargs)
        socket.settimeout(longest)
        try:
            return self._read(*args, **kwargs)
        finally:
            # It may be closed: then there is nothing to set.
            with suppress(OSError):
                socket.settimeout(timeout)

    def _read(self, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = super().read_response(*args, **kwargs)
        except (RedisTimeoutError, TimeoutError):
            Parser.is_silent = True
            raise
        Parser.is_silent = False
        return answer
