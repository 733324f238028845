"""`celery rebound dlq ...`: the dead letters in Redis and in Kafka topics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

import click

from rebound_celery.operate.cli.dlq_moving import export, import_, purge
from rebound_celery.operate.cli.dlq_shared import (
    chosen_filter,
    chosen_source_option,
    dead_letters_of,
    nothing,
    plainly,
    say_if_alive,
    source_option,
)
from rebound_celery.operate.cli.errors import EXIT_NOT_FOUND
from rebound_celery.operate.cli.filters import filter_switches, read_filter
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.shared import json_option


@click.group()
def dlq() -> None:
    """List, replay and remove dead letters, in Redis and in Kafka topics.

    `ls` prints the ID of each dead letter. In a topic it is topic:partition:offset, or topic[partition]@offset as in
    log lines. For a dead letter in Redis, you can also give the id of the message. Exit status 0: success. 1: Redis or
    Kafka does not answer. 2: an option is wrong. 4: there is no dead letter with a given ID, or it cannot be replayed.
    """


@dlq.command()
@filter_switches(dead=True)
@source_option
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="The largest number of rows.")
@click.option("--all", "all_of_them", is_flag=True, help="All rows. It overrides --limit.")
@click.option("--after", metavar="NEXT", help="Continue a list. The end of the list prints NEXT.")
@json_option
@click.pass_context
def ls(
    ctx: click.Context,
    switches: Mapping[str, Any],
    source: str | None,
    limit: int,
    all_of_them: bool,
    after: str | None,
    as_json: bool,
) -> None:
    """List dead letters: those in Redis, and then those in each topic, the earliest first."""
    with plainly(ctx, source):
        from rebound_celery.operate.cli.letters import LETTERS
        from rebound_celery.operate.cli.pages import print_pages

        chosen, found = read_filter(switches), dead_letters_of(ctx)
        print_pages(
            LETTERS,
            lambda position, count, progress: found.list(chosen, source, position, count, progress=progress),
            after,
            None if all_of_them else limit,
            as_json=as_json,
            is_filtered=chosen is not None,
        )


@dlq.command()
@click.argument("id_", metavar="ID")
@click.option("--value", "with_value", is_flag=True, help="Print the value too.")
@json_option
@click.pass_context
def show(ctx: click.Context, id_: str, with_value: bool, as_json: bool) -> None:
    """Show the details of one dead letter."""
    with plainly(ctx):
        from rebound_celery.operate.cli.letters import print_letter
        from rebound_celery.operate.cli.printing import output_may_close

        letter = dead_letters_of(ctx).letter(id_)
        if letter is None:
            say(f"Error: {nothing(id_)}", err=True)
            ctx.exit(EXIT_NOT_FOUND)
        with output_may_close():
            print_letter(letter, with_value=with_value, as_json=as_json)
        say_if_alive(ctx, letter)


@dlq.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filter_switches(dead=True)
@chosen_source_option
@click.option("--all", "all_of_them", is_flag=True, help="All dead letters of the source.")
@click.option("--target", metavar="URL", help="Another destination: kafka://topic, or a URL.")
@click.option("--limit", type=click.IntRange(1), help="At most this many, the earliest first.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="At most this many a second.")
@click.option(
    "--max-replays",
    default=3,
    show_default=True,
    type=click.IntRange(0),
    help="After this many replays, it goes to the topic {topic}-parked.",
)
@click.option("--again", is_flag=True, help="Also those in topics that were replayed before.")
@click.option("--dry-run", is_flag=True, help="Send nothing, and print how many would be sent.")
@click.option("--job", "as_job", is_flag=True, help="Let the workers do it, and return immediately.")
@json_option
@click.pass_context
def replay(
    ctx: click.Context,
    /,
    ids: tuple[str, ...],
    switches: Mapping[str, Any],
    source: str | None,
    all_of_them: bool,
    as_job: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Send dead letters again, from attempt 1: those with these IDs, those that match the switches, or --all.

    Workers deliver them. A dead letter in Redis is removed. One in a topic stays there, and is not replayed twice
    without --again. So you can stop the command and run it again. A dead letter that was replayed --max-replays times
    goes to the topic {topic}-parked. With --job, the workers make the replay: see `celery rebound jobs`.
    """
    if as_job and ids:
        raise click.UsageError("--job needs switches or --all; a replay of IDs is made by the command itself")
    with plainly(ctx):
        from rebound_celery.operate.cli.letters import print_replay
        from rebound_celery.operate.cli.replaying import run_replay

        chosen = chosen_filter(ids, switches, source, all_of_them=all_of_them)
        if as_job:
            from rebound_celery.operate.cli.jobs import start_job

            start_job(ctx, as_json=as_json, filter=chosen, source=source, **options)
            return
        replaying = dead_letters_of(ctx).begin_replay(*ids, filter=chosen, source=source, **options)
        result = run_replay(ctx, replaying, shown=chosen is not None or len(ids) > 1)
        print_replay(result, as_json=as_json)
        for identity in result.unknown:
            say(f"Error: {nothing(identity)}", err=True)
        if result.unknown or (ids and result.left):
            ctx.exit(EXIT_NOT_FOUND)


@dlq.command()
@click.argument("id_", metavar="ID")
@click.option("--value", help="The new value, as text.")
@click.option("--value-file", type=click.File("rb"), help="The file with the new value; - for stdin.")
@click.option("--key", help="The new key.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Set a header; repeatable.")
@click.option("--drop-header", "dropped", multiple=True, metavar="NAME", help="Remove a header; repeatable.")
@click.option("--target", metavar="URL", help="Another destination: kafka://topic, or a URL.")
@json_option
@click.pass_context
def edit(
    ctx: click.Context,
    id_: str,
    value: str | None,
    value_file: IO[bytes] | None,
    key: str | None,
    headers: tuple[str, ...],
    dropped: tuple[str, ...],
    target: str | None,
    as_json: bool,
) -> None:
    """Change a dead letter and send it, from attempt 1. The dead letter itself is kept as it is.

    The header rebound-edited says what was changed, and of which dead letter.
    """
    if value is not None and value_file is not None:
        raise click.UsageError("give --value or --value-file, not both")
    with plainly(ctx):
        import json

        found = dead_letters_of(ctx)
        view = found.get(id_)
        if view is None:
            say(f"Error: {nothing(id_)}", err=True)
            ctx.exit(EXIT_NOT_FOUND)
        changes: dict[str, Any] = {}
        if value is not None or value_file is not None:
            changes["value"] = value if value_file is None else value_file.read()
        if key is not None:
            changes["key"] = key
        if headers or dropped:
            changes["headers"] = _changed(view.headers, headers, dropped)
        task_id = found.edit(view.id, target=target, **changes)
        say(json.dumps({"action": "edit", "id": view.id, "task_id": task_id}) if as_json else f"Sent as {task_id}")


def _changed(
    headers: tuple[tuple[str, bytes | None], ...], given: tuple[str, ...], dropped: tuple[str, ...]
) -> list[tuple[str, Any]]:
    """Return headers with those that are set in place of others of their names, and without those that are dropped."""
    pairs = [text.partition("=") for text in given]
    if wrong := [name for name, equals, _ in pairs if not name or not equals]:
        raise click.UsageError(f"--header {wrong[0]}: give it as name=value")
    gone = {*dropped, *(name for name, _, _ in pairs)}
    return [each for each in headers if each[0] not in gone] + [(name, value) for name, _, value in pairs]


dlq.add_command(purge)
dlq.add_command(export)
dlq.add_command(import_)
