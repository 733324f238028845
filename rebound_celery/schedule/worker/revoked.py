"""Tells of waiting tasks that somebody other than a worker has removed from the schedule."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..store.values import Waiting
from . import announcements
from .shown import message_of, schedules

logger = logging.getLogger(__name__)


def tell_revoked(app: Any, queue: str, removed: Sequence[Waiting]) -> None:
    """See `schedule.port.tell_revoked`."""
    if not removed:
        return
    untold = 0
    with schedules(app, [queue]) as found:
        for store, options in found:
            for entry in removed:
                message = message_of(options, store.queue, entry, entry.stored)
                try:
                    if message is not None:
                        announcements.revoked(app, message)
                except Exception as error:  # noqa: BLE001 - a result backend or a signal's receiver may raise anything
                    untold += 1
                    if untold == 1:
                        logger.warning(
                            "task %s is removed, but that could not be told: %r",
                            entry.id,
                            error,
                            extra={"event": "revoked_untold", "id": entry.id},
                        )
    if untold > 1:
        logger.warning("%s removed tasks could not be told of", untold, extra={"event": "revoked_untold"})
