"""Warns at a worker's start of what would be noticed only when messages are late, or lost."""

from __future__ import annotations

import logging
from typing import Any

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


def warn_of_unconsumed(consumer: Any) -> None:
    """Say so at a worker's start if it does not consume a queue all of whose messages are the schedule's.

    Such a worker runs with `-Q`. That may be meant, where others consume the queue.
    """
    channel = consumer.task_consumer.channel
    if not isinstance(channel, Channel) or channel.options is None:
        return
    consumed = {queue.name for queue in consumer.task_consumer.queues}
    missing = sorted(channel.options.leased.keys() - consumed)
    if missing:
        logger.warning(
            "this worker does not consume the queue %s, and delivers nothing that waits there: add it to -Q (%s), or "
            "see to it that another worker consumes it",
            ", ".join(missing),
            ",".join([*sorted(consumed), *missing]),
            extra={"event": "queue_not_consumed"},
        )
