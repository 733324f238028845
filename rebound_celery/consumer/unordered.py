"""What a consumer without an order does about records that wait in order."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import ReboundError
from ..registry import RetryScheduler
from .blocked_keys import chain_prefix
from .partition_tracker import Partition

logger = logging.getLogger(__name__)


def break_up_chains(scheduler: RetryScheduler, group: str, partitions: Sequence[tuple[str, int]]) -> bool:
    """Let records be delivered that wait in order from a time when the consumer had `ordering="key"`.

    Returns:
        False if Redis is away: ask again.
    """
    count = 0
    try:
        for topic, number in partitions:
            count += scheduler.chains.break_up(chain_prefix(group, Partition(topic, number)))
    except ReboundError as error:
        logger.info("Redis has not said whether records wait in order: %s", error, extra={"event": "chains_unreadable"})
        return False
    if count:
        logger.warning(
            "%d records have waited in order; this consumer keeps no order, so they are delivered now",
            count,
            extra={"event": "chains_broken_up", "count": count},
        )
    return True
