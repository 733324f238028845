"""`celery rebound chains`: lists the keys whose records wait in order, and releases them."""

from __future__ import annotations

import json

import click

from rebound_celery.operate.cli.errors import EXIT_USAGE, plain_errors
from rebound_celery.operate.cli.shared import rebound_of

#: How many chains are read at once.
_PAGE = 200


@click.command()
@click.option(
    "--prefix",
    default="",
    help="Only names with this prefix: group/topic/partition/key, URL-encoded.",
)
@click.option("--held", is_flag=True, help="Only those that a dead letter holds.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="The largest number of lines.")
@click.option("--release", metavar="NAME", help="Release this key: it continues without the record that it waits for.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_context
def chains(ctx: click.Context, prefix: str, held: bool, limit: int, release: str | None, as_json: bool) -> None:
    """List the keys whose records wait in order, or release one.

    A line has the state of the record that the others wait for: "sent" (it waits for its next attempt, or is in
    Kafka), "taken" (a consumer handles it) or "held" (it is a dead letter); its offset; the number of records that wait
    behind it; and the name of the key.
    """
    with plain_errors(ctx):
        rebound = rebound_of(ctx)
        if release is not None:
            count = rebound.chains.release(release)
            if not count:
                click.echo(f"Error: no records wait for {release!r}; `celery rebound chains` lists the names", err=True)
                ctx.exit(EXIT_USAGE)
            click.echo(f"{release} goes on: {count - 1} records were behind the head")
            return
        from rebound_celery.message.place import offset_of

        after, lines = "", 0
        while lines < limit and (page := rebound.chains.page(prefix, after, _PAGE)):
            after = page[-1].name
            for chain in page:
                if (held and chain.state != "held") or lines >= limit:
                    continue
                lines += 1
                offset = offset_of(chain.place)
                if as_json:
                    fields = {"name": chain.name, "state": chain.state, "offset": offset, "behind": chain.behind}
                    click.echo(json.dumps(fields))
                else:
                    click.echo(f"{chain.state:<6} {offset:>12} {chain.behind:>8} behind  {chain.name}")
