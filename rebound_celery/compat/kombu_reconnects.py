"""Tries to reach a Redis that is away more often than Celery's worker does.

For kombu 5.7 (`Connection.ensure_connection`).

Celery's worker pauses between its tries to connect, each time two seconds longer, up to half a minute, and has no
setting for that. A Redis that is back would stand idle for as long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu.utils.functional import fxrange

#: Seconds between two tries while Redis is away.
LOOK_S = 2.0

#: The pauses of kombu's `ensure_connection`: first, step and longest, in seconds.
_PAUSES_S = (2.0, 2.0, 30.0)


def look_often(connection: Any) -> None:
    """Let `connection.ensure_connection` also try within its pauses.

    Its caller sees the same as before: the number of tries that count, the pauses that are reported to it, and so the
    time after which it gives up. Nothing changes for a caller that says how long to pause.
    """
    ensure = connection.ensure_connection

    def ensure_connection(
        errback: Callable[[BaseException, float], Any] | None = None, max_retries: int | None = None, **options: Any
    ) -> Any:
        if any(name.startswith("interval_") for name in options):
            return ensure(errback, max_retries, **options)
        thinned = _ThinnedErrback(errback, max_retries)
        return ensure(thinned, None, interval_start=LOOK_S, interval_step=0, interval_max=LOOK_S, **options)

    connection.ensure_connection = ensure_connection


class _ThinnedErrback:
    """An errback that passes on those failures that kombu would have met with its own pauses."""

    def __init__(self, errback: Callable[[BaseException, float], Any] | None, max_retries: int | None) -> None:
        self._errback = errback
        self._max_retries = max_retries
        first, step, longest = _PAUSES_S
        self._pauses = fxrange(first, longest, step, repeatlast=True)
        self._tries = 0
        self._pause_left = 0.0

    def __call__(self, error: BaseException, pause_s: float) -> None:
        if self._pause_left > 0:
            self._pause_left -= pause_s
            return
        if self._max_retries is not None and self._tries >= self._max_retries:
            raise error
        self._tries += 1
        # No pause: kombu goes on to the next of several servers.
        reported_pause_s = next(self._pauses) if pause_s else 0.0
        self._pause_left = reported_pause_s - pause_s
        if self._errback is not None:
            self._errback(error, reported_pause_s)
