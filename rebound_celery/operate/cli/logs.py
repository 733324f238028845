"""The logging of `celery rebound consume`: Celery sets it up, by the same rules as that of a worker."""

from __future__ import annotations

import logging
import socket
from typing import Any

import click

from rebound_celery.operate.cli.errors import LOGFILE

#: The values of `--loglevel`, as those of `celery worker`.
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


def set_up_logging(ctx: click.Context, level: str, logfile: str | None) -> None:
    """Set up logging as a worker does. Call it when the app's modules are imported: they connect Celery's signals.

    A receiver of Celery's signal `setup_logging` keeps Celery, and this, from any change. What is printed is not
    redirected to the log: the counts that the command prints are for programs too.

    Args:
        ctx: the command's.
        level: one of LOG_LEVELS.
        logfile: where to write the log, in which Celery replaces `%n` by "consumer", `%h` by the name of the host, and
            `%d` by its domain; None for stderr.

    Raises:
        InvalidSettingError: if that file cannot be written.
    """
    from celery.utils.nodenames import nodename

    from rebound_celery.errors import InvalidSettingError

    if logfile == "":
        # Celery takes it for none.
        raise InvalidSettingError("--logfile", logfile, "it is the path of a file; without the option, stderr is used")
    colorize = False if ctx.obj.no_color else None
    try:
        receivers = ctx.obj.app.log.setup(
            level.upper(), logfile, colorize=colorize, hostname=nodename("consumer", socket.gethostname())
        )
    except (OSError, ValueError) as error:
        if logfile is None:
            raise
        raise InvalidSettingError("--logfile", logfile, f"it cannot be used: {error}") from error
    if logfile is not None:
        ctx.meta[LOGFILE] = logfile
    kafka: Any = logging.getLogger("kafka")
    if not receivers and level.upper() != "DEBUG" and kafka.level == logging.NOTSET:
        # kafka-python logs every failed connection at ERROR. rebound logs what matters itself.
        kafka.setLevel(logging.CRITICAL)
