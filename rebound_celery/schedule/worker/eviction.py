"""Warns at a worker's start if Redis may throw waiting messages away."""

from __future__ import annotations

import logging

from celery import Celery

from ..store.server_checks import eviction
from ..transport.channel import Channel

logger = logging.getLogger(__name__)


def warn_of_eviction(app: Celery) -> None:
    """Say so at a worker's start if Redis may throw messages away."""
    try:
        with app.connection_or_acquire() as connection:
            channel = connection.default_channel
            if not isinstance(channel, Channel) or channel.options is None:
                return
            problem = eviction(channel.store_of(app.conf.task_default_queue).server_info())
    except Exception as error:  # noqa: BLE001 - a worker must start whatever INFO says, or forbids
        logger.debug("Redis does not tell its eviction policy: %r", error)
        return
    if problem is not None:
        logger.warning("%s", problem)
