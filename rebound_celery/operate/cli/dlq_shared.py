"""What the `celery rebound dlq` commands share: options, the choice of dead letters, and errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rebound_celery.operate.cli.errors import plain_errors
from rebound_celery.operate.cli.filters import read_filter

if TYPE_CHECKING:
    from rebound_celery.dead_letters import DeadLetters
    from rebound_celery.selection import Filter

_SOURCE = "redis, or a Kafka topic."
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, with stable keys.")
source_option = click.option("--source", help=f"{_SOURCE} Default: Redis and all topics of dead letters.")
chosen_source_option = click.option("--source", help=f"With switches or --all, where the dead letters are: {_SOURCE}")


def chosen_filter(
    ids: tuple[str, ...], switches: Mapping[str, Any], source: str | None, *, all_of_them: bool
) -> Filter | None:
    """Return the filter; None where ids are given.

    Raises:
        click.UsageError: if it is not clear what is meant.
    """
    from rebound_celery.selection import Filter

    chosen = read_filter(switches)
    if sum((bool(ids), chosen is not None, all_of_them)) != 1:
        raise click.UsageError("give IDs, or switches that choose dead letters, or --all")
    if ids and source is not None:
        raise click.UsageError("an ID names the place of the dead letter already: leave out --source")
    if not ids and source is None:
        raise click.UsageError("give --source too: redis, or a Kafka topic")
    return Filter() if all_of_them else chosen


def nothing(identity: str) -> str:
    return f"there is no dead letter under {identity!r}: it was replayed, removed or deleted by Kafka, or never there"


@contextmanager
def plainly(ctx: click.Context, source: str | None = "") -> Iterator[None]:
    """Print errors in plain words, and without the log lines of kafka-python."""
    import logging

    from rebound_celery.errors import UnreachableError

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with plain_errors(ctx):
        try:
            yield
        except UnreachableError as error:
            if source is None and error.service == "Kafka":
                click.echo("For those in Redis alone, give --source redis", err=True)
            raise


def dead_letters_of(ctx: click.Context) -> DeadLetters:
    from typing import cast

    from rebound_celery import registry
    from rebound_celery.app import Rebound

    return cast(Rebound, registry.find(ctx.obj.app)).dead_letters
