"""A handler's module that logs when it is imported: after logging is set up, and before anything connects."""

from __future__ import annotations

import logging

logger = logging.getLogger("shop")
for level in (logging.DEBUG, logging.INFO, logging.ERROR):
    logger.log(level, "said at %s", logging.getLevelName(level).lower())


def handle(record: object) -> None:
    """Never called: no server answers."""
