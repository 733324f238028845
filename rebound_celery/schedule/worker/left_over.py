"""Gives back what a worker still holds when its pool has ended."""

from __future__ import annotations

import logging
from typing import Any

from celery.bootsteps import TERMINATE
from redis.exceptions import RedisError

from ..store.claims import RELEASE
from ..transport.process_leases import all_leases

logger = logging.getLogger(__name__)


def give_back(sender: Any = None, **_: Any) -> None:
    """Release the leases that a worker still holds (a receiver of `worker_shutdown`).

    A supervisor may stop all processes of a worker at once. What the children were at is lost then, and the pool ends
    without running it again, or without noticing. No process works on it any more, so the next worker need not wait
    until the leases run out, which would count as a lost worker.
    """
    blueprint = sender.blueprint
    if blueprint is None or blueprint.state != TERMINATE:
        return  # its pool may be at work
    queues = set(sender.app.amqp.queues)
    for leases in all_leases():
        left = leases.end_all(leases.tags_of(queues), RELEASE)
        try:
            leases.flush()
        except (RedisError, OSError) as error:
            logger.debug("what the worker has left is due when its leases have run out: %s", error)
        else:
            if left:
                logger.info("%d messages whose processes have ended are given back", left)
