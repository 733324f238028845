"""Warns a program whose replay waits because no worker claims what it has stored."""

from __future__ import annotations

import logging
from collections.abc import Callable

from .replay_values import UNCLAIMED_MS, ReplayResult

logger = logging.getLogger(__name__)


class UnclaimedWarning:
    """Takes the results of a replay's steps, and logs one warning if no worker claims.

    Args:
        queue: tells the name of rebound's queue.
    """

    def __init__(self, queue: Callable[[], str]) -> None:
        self._queue = queue
        self._is_logged = False

    def __call__(self, result: ReplayResult) -> None:
        if self._is_logged or result.unclaimed_ms < UNCLAIMED_MS:
            return
        self._is_logged = True
        queue = self._queue()
        logger.warning(
            "%d dead letters wait until earlier ones with their keys are delivered, and no worker has claimed anything "
            "for %.0f s; start a worker that consumes the queue %s: celery -A <app> worker -Q %s",
            result.waiting,
            result.unclaimed_ms / 1000,
            queue,
            queue,
            extra={"event": "unclaimed", "queue": queue},
        )
