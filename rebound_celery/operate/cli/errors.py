"""How the commands tell errors: one line, and an exit status."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

#: Exit status when a server cannot be reached, and when a setting is wrong.
EXIT_UNREACHABLE = 1
EXIT_USAGE = 2
#: Exit status when too many records became dead letters. A supervisor should not start the consumer again.
EXIT_TOO_MANY_DEAD = 3
#: Exit status when there is nothing under an id that was given, or nothing that could be changed.
EXIT_NOT_FOUND = 4

#: The key in the `meta` of a command's context that says that the log goes to a file.
LOGFILE = "rebound_celery.logfile"


@contextmanager
def plain_errors(ctx: click.Context) -> Iterator[None]:
    """Print an error whose text tells everything as one line, without a stack trace."""
    from rebound_celery.errors import DeadLetterLimitError, InvalidSettingError, NotInstalledError, ReboundError

    try:
        yield
    except DeadLetterLimitError as error:
        _say(ctx, str(error))
        ctx.exit(EXIT_TOO_MANY_DEAD)
    except ReboundError as error:
        _say(ctx, str(error))
        wrong_use = isinstance(error, InvalidSettingError | NotInstalledError)
        ctx.exit(EXIT_USAGE if wrong_use else EXIT_UNREACHABLE)
    except Exception as error:
        # Compared by name, so that kafka is not imported for commands that do not need it.
        if not type(error).__module__.startswith("kafka."):
            raise
        _say(ctx, f"Kafka: {type(error).__name__}: {error}")
        ctx.exit(EXIT_UNREACHABLE)


def _say(ctx: click.Context, text: str) -> None:
    """Print an error to stderr, and log it where the log goes to a file: whoever reads only that must find it."""
    click.echo(f"Error: {text}", err=True)
    if LOGFILE in ctx.meta:
        logging.getLogger("rebound_celery").error("%s", text)


@contextmanager
def asking_redis(app: Any) -> Iterator[None]:
    """Raise UnreachableError where Redis does not answer. Surround calls with it, and nothing that prints."""
    from kombu.exceptions import KombuError
    from redis.exceptions import RedisError

    from rebound_celery.broker import shown_broker
    from rebound_celery.errors import UnreachableError

    try:
        yield
    except (KombuError, RedisError, OSError) as error:
        raise UnreachableError("Redis", shown_broker(app), error) from error
