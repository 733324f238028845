"""What the `celery rebound dlq` commands share: options, the choice of dead letters, and errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rebound_celery.operate.cli.errors import plain_errors
from rebound_celery.operate.cli.filters import choose
from rebound_celery.operate.cli.shared import rebound_of

if TYPE_CHECKING:
    from rebound_celery.dead_letters import DeadLetters, Letter
    from rebound_celery.selection import Filter

_SOURCE = "redis, or a Kafka topic."
source_option = click.option("--source", help=f"{_SOURCE} Default: Redis and all topics of dead letters.")
chosen_source_option = click.option("--source", help=f"With switches or --all, where the dead letters are: {_SOURCE}")


def chosen_filter(
    ids: tuple[str, ...],
    switches: Mapping[str, Any],
    source: str | None,
    *,
    all_of_them: bool,
    limit: int | None = None,
) -> Filter | None:
    """Return the filter; None where ids are given. See `choose`.

    Raises:
        click.UsageError: if it is not clear what is meant.
    """
    chosen = choose(ids, switches, "dead letters", all_of_them=all_of_them, limit=limit)
    if ids and source is not None:
        raise click.UsageError("an ID names the place of the dead letter already: leave out --source")
    if not ids and source is None:
        raise click.UsageError("give --source too: redis, or a Kafka topic")
    return chosen


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


def say_if_alive(ctx: click.Context, letter: Letter) -> None:
    """Say so if a place in a topic seems to be that of the record that failed: log lines have that too."""
    from rebound_celery import registry
    from rebound_celery.operate.cli.output import say

    view, suffix = letter.view, registry.find(ctx.obj.app).settings.dead_letter_suffix
    if view.partition is not None and view.written_by == "unknown" and not view.kept_in.endswith(suffix):
        say(
            f"{view.id} seems to be a record of {view.kept_in}, and no dead letter. List its dead letters: "
            f"celery rebound dlq ls --source {view.kept_in}{suffix}",
            err=True,
        )


def dead_letters_of(ctx: click.Context) -> DeadLetters:
    return rebound_of(ctx).dead_letters
