"""`celery rebound stats`: the numbers of a queue."""

from __future__ import annotations

import click

from rebound_celery.operate.cli.errors import plain_errors
from rebound_celery.operate.cli.queues import say_if_unused


@click.command()
@click.option("--queue", help="A Celery queue of the app. Default: rebound's own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with stable keys.")
@click.pass_context
def stats(ctx: click.Context, queue: str | None, as_json: bool) -> None:
    """Print how many messages wait, are held by workers or are dead letters, how late they are, and the counters."""
    with plain_errors(ctx):
        from rebound_celery.operate.cli.printing import output_may_close, print_fields, print_json
        from rebound_celery.pending import pending_of
        from rebound_celery.selection import duration_text

        pending = pending_of(ctx.obj.app)
        found = pending.stats(queue=queue)
        say_if_unused(ctx.obj.app, pending, queue)
        with output_may_close():
            if as_json:
                print_json(found.to_dict())
                return
            late = f"since {duration_text(found.overdue_ms / 1000)}" if found.overdue_ms else None
            print_fields(
                {
                    "queue": found.queue,
                    "waiting": f"{found.waiting:,}",
                    "held by workers": f"{found.leased:,}",
                    "behind a key's head": f"{found.behind:,}",
                    "dead in Redis": f"{found.dead:,}",
                    "due, not delivered": late,
                    "nobody claims": f"since {duration_text(found.unclaimed_ms / 1000)}"
                    if found.unclaimed_ms
                    else None,
                    "endpoints disabled": f"{found.disabled_endpoints:,} (celery rebound endpoints ls)"
                    if found.disabled_endpoints
                    else None,
                    **{f"counter {name}": f"{count:,}" for name, count in sorted(found.counters.items())},
                }
            )
