"""`celery rebound dlq purge`, `export` and `import`: dead letters are removed, written to files and read from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

import click

from rebound_celery.operate.cli.dlq_shared import (
    chosen_filter,
    chosen_source_option,
    dead_letters_of,
    nothing,
    plainly,
    source_option,
)
from rebound_celery.operate.cli.errors import EXIT_NOT_FOUND, EXIT_USAGE
from rebound_celery.operate.cli.filters import filter_switches, read_filter
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.shared import json_option

if TYPE_CHECKING:
    from rebound_celery.selection import ActionResult


@click.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filter_switches(dead=True)
@chosen_source_option
@click.option("--all", "all_of_them", is_flag=True, help="All dead letters of the source.")
@click.option("--up-to", metavar="ID", help="In a topic: all records of the partition up to this one.")
@click.option("--limit", type=click.IntRange(1), help="At most this many, the earliest first. In Redis only.")
@click.option("--dry-run", is_flag=True, help="Remove nothing, and print how many would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@json_option
@click.pass_context
def purge(
    ctx: click.Context,
    ids: tuple[str, ...],
    switches: Mapping[str, Any],
    source: str | None,
    all_of_them: bool,
    up_to: str | None,
    limit: int | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove dead letters permanently.

    From Redis: those with these IDs, those that match the switches, or --all. From a topic: --all, or --up-to an ID,
    because Kafka can delete records only from the beginning of a partition.
    """
    with plainly(ctx):
        from rebound_celery.operate.cli.progress import progress_bar

        found = dead_letters_of(ctx)
        chosen = None
        if up_to is None:
            chosen = chosen_filter(ids, switches, source, all_of_them=all_of_them, limit=limit)
        elif ids or all_of_them or source or limit or read_filter(switches) is not None:
            raise click.UsageError("--up-to says all: leave out IDs, --source, --all, --limit and switches")

        def act(text: str, *, dry_run: bool) -> ActionResult:
            with progress_bar(text, shown=chosen is not None, acts=not dry_run) as watched:
                return found.purge(
                    *ids, filter=chosen, source=source, up_to=up_to, limit=limit, dry_run=dry_run, progress=watched
                )

        if not (yes or dry_run or ids):
            count = act("found", dry_run=True).matched
            _ask(ctx, count, f"{up_to}" if up_to is not None else f"{source}: {chosen}")
        result = act("found" if dry_run else "removed", dry_run=dry_run)
        if as_json:
            import json

            say(json.dumps(result.to_dict()))
        else:
            say(f"{result.matched:,} would be removed" if dry_run else f"{result.changed:,} removed")
        for identity in result.unknown:
            say(f"Error: {nothing(identity)}", err=True)
        if result.unknown:
            ctx.exit(EXIT_NOT_FOUND)


@click.command()
@filter_switches(dead=True)
@source_option
@click.option("--output", type=click.Path(dir_okay=False, writable=True), help="A file, instead of stdout.")
@click.pass_context
def export(ctx: click.Context, switches: Mapping[str, Any], source: str | None, output: str | None) -> None:
    """Write dead letters with their values as JSON lines, which `import` reads.

    URLs of destinations are complete, with user, password and query.
    """
    with plainly(ctx, source):
        import json

        from rebound_celery.operate.cli.printing import output_may_close
        from rebound_celery.operate.cli.progress import progress_bar

        chosen, found, count = read_filter(switches), dead_letters_of(ctx), 0
        with (
            output_may_close(),
            progress_bar("exported") as watched,
            # It is opened with the first line: an export that cannot begin leaves an earlier file as it is.
            click.open_file(output or "-", "w", encoding="utf-8", lazy=output is not None) as lines,
        ):
            for letter in found.export(chosen, source, progress=watched):
                lines.write(json.dumps(letter) + "\n")
                count += 1
        say(f"{count:,} exported", err=True)


@click.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
@click.pass_context
def import_(ctx: click.Context, file: IO[str]) -> None:
    """Store exported dead letters in Redis, from FILE or stdin. One that is stored already is replaced."""
    with plainly(ctx):
        say(f"{dead_letters_of(ctx).import_(_lines(file)):,} imported")


def _lines(file: IO[str]) -> Iterator[Any]:
    import json

    from rebound_celery.errors import InvalidSettingError

    try:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InvalidSettingError(f"line {number}", line[:80], f"it is no JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise InvalidSettingError("file", file.name, f"it is no UTF-8: {error}") from error


def _ask(ctx: click.Context, count: int, what: str) -> None:
    import sys

    if count == 0:
        return
    from rebound_celery.operate.cli.printing import plain

    question = f"Remove {count:,} dead letters for good ({plain(what)})?"
    if not sys.stdin.isatty():
        say(f"Error: {question} Give --yes, because there is no terminal to ask for confirmation", err=True)
        ctx.exit(EXIT_USAGE)
    if not click.confirm(question, err=True):
        say("Nothing was removed.", err=True)
        ctx.exit(EXIT_USAGE)
