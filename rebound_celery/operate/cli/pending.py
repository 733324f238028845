"""`celery rebound pending ...`: what waits in the schedule."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from rebound_celery.operate.cli.errors import EXIT_NOT_FOUND, EXIT_USAGE, asking_redis, plain_errors
from rebound_celery.operate.cli.filters import choose, filter_switches, read_filter
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.queues import say_if_unused
from rebound_celery.operate.cli.shared import json_option, rebound_of

if TYPE_CHECKING:
    from rebound_celery.pending import Pending
    from rebound_celery.selection import ActionResult, Filter, Progress

queue_option = click.option("--queue", help="A Celery queue of the app. Default: rebound's own.")
#: What cannot be moved to Celery's list.
_KINDS = {
    "retry": "a retry, no Celery task",
    "dead-letter": "a dead letter, no Celery task",
    "unreadable": "not readable",
    "job-step": "a step of a job, no task of the app",
}


@click.group()
def pending() -> None:
    """List waiting messages, and deliver them now or later, or cancel them.

    An ID is that of the Celery task, as `ls` prints it, or that of the message. Exit status 0: success. 1: Redis does
    not answer. 2: an option is wrong. 4: no message with a given ID can be changed.
    """


@pending.command()
@filter_switches()
@queue_option
@click.option("--leased", is_flag=True, help="List messages that workers hold, not waiting ones.")
@click.option("--arguments", is_flag=True, help="Show the arguments of ordinary Celery tasks.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="The largest number of rows.")
@click.option("--all", "all_of_them", is_flag=True, help="All rows. It overrides --limit.")
@click.option("--after", metavar="NEXT", help="Continue a list. The end of the list prints NEXT.")
@json_option
@click.pass_context
def ls(
    ctx: click.Context,
    switches: Mapping[str, Any],
    queue: str | None,
    leased: bool,
    arguments: bool,
    limit: int,
    all_of_them: bool,
    after: str | None,
    as_json: bool,
) -> None:
    """List waiting messages, by due time."""
    with plain_errors(ctx):
        from rebound_celery.operate.cli.entries import PENDING, PENDING_WITH_ARGUMENTS
        from rebound_celery.operate.cli.pages import print_pages

        chosen, found = read_filter(switches), _pending(ctx)
        print_pages(
            PENDING_WITH_ARGUMENTS if arguments else PENDING,
            lambda position, count, progress: found.list(
                chosen, position, count, queue=queue, leased=leased, arguments=arguments, progress=progress
            ),
            after,
            None if all_of_them else limit,
            as_json=as_json,
            is_filtered=chosen is not None,
            on_none=lambda: say_if_unused(ctx.obj.app, found, queue),
        )


@pending.command()
@click.argument("id_", metavar="ID")
@queue_option
@click.option("--value", "with_value", is_flag=True, help="Print the value too.")
@json_option
@click.pass_context
def show(ctx: click.Context, id_: str, queue: str | None, with_value: bool, as_json: bool) -> None:
    """Show the details of one message."""
    with plain_errors(ctx):
        from rebound_celery.operate.cli.entries import print_entry
        from rebound_celery.operate.cli.printing import output_may_close

        found = _pending(ctx)
        view = found.get(id_, queue=queue, arguments=True)
        if view is None:
            say_if_unused(ctx.obj.app, found, queue)
            say(f"Error: {_nothing(id_)}", err=True)
            ctx.exit(EXIT_NOT_FOUND)
        message = found.message(view.id, queue=queue) if with_value else None
        with output_may_close():
            print_entry(view, message, with_value=with_value, as_json=as_json)


def _acting(command: Callable[..., None]) -> Callable[..., Any]:
    """Add the options of commands that change entries."""
    for option in (
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        filter_switches(),
        queue_option,
        click.option("--all", "all_of_them", is_flag=True, help="All waiting messages of the queue."),
        click.option("--limit", type=click.IntRange(1), help="With switches or --all: at most this many, by due time."),
        click.option("--dry-run", is_flag=True, help="Change nothing, and print how many would be changed."),
        json_option,
        click.pass_context,
    )[::-1]:
        command = option(command)
    return command


@pending.command("run-now")
@_acting
def run_now(ctx: click.Context, **options: Any) -> None:
    """Make messages due now: those with these IDs, those that match the switches, or --all."""
    _act(ctx, lambda found, **more: found.run_now(*more.pop("ids"), **more), "due now", **options)


@pending.command()
@_acting
@click.option("--due", required=True, metavar="TIME", help="The new due time: 2030-01-31T18:00Z, now, +10min.")
def reschedule(ctx: click.Context, due: str, **options: Any) -> None:
    """Make messages due at another time: those with these IDs, those that match the switches, or --all."""
    with plain_errors(ctx):
        from rebound_celery.clock import SYSTEM_CLOCK
        from rebound_celery.selection import read_time_ms

        due_ms = read_time_ms("--due", due, SYSTEM_CLOCK.now_ms())
    _act(ctx, lambda found, **more: found.reschedule(due_ms, *more.pop("ids"), **more), "rescheduled", **options)


@pending.command()
@_acting
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def cancel(ctx: click.Context, yes: bool, **options: Any) -> None:
    """Remove messages permanently: those with these IDs, those that match the switches, or --all.

    Their Celery tasks are revoked. Messages that a worker holds are not changed.
    """
    _act(ctx, lambda found, **more: found.cancel(*more.pop("ids"), **more), "cancelled", asks=not yes, **options)


@pending.command("to-celery")
@_acting
def to_celery(ctx: click.Context, **options: Any) -> None:
    """Move ordinary Celery tasks to the list of their queue, for workers without rebound.

    Those with these IDs, those that match the switches, or --all. Stop the workers that have rebound before: they would
    take the tasks back. Retries and dead letters stay.
    """
    _act(ctx, lambda found, **more: found.to_celery(*more.pop("ids"), **more), "moved to Celery's list", **options)


def _act(
    ctx: click.Context,
    call: Callable[..., ActionResult],
    done: str,
    *,
    ids: tuple[str, ...],
    switches: Mapping[str, Any],
    queue: str | None,
    all_of_them: bool,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
    asks: bool = False,
) -> None:
    with plain_errors(ctx):
        from rebound_celery.operate.cli.progress import progress_bar
        from rebound_celery.operate.cli.signals import StoppedBySignal

        chosen = choose(ids, switches, "messages", all_of_them=all_of_them, limit=limit)
        found = _pending(ctx)
        given = {"ids": ids, "filter": chosen, "queue": queue, "limit": limit}

        def act(text: str, *, dry_run: bool) -> ActionResult:
            with progress_bar(text, shown=chosen is not None, acts=not dry_run) as watched:
                try:
                    return call(found, **given, dry_run=dry_run, progress=watched)
                except StoppedBySignal:
                    _say_stopped(watched.last, done)
                    raise

        if asks and chosen is not None and not dry_run:
            _ask(ctx, act("found", dry_run=True).matched, chosen)
        result = act("found" if dry_run else done, dry_run=dry_run)
        if not result.matched and not result.leased:
            say_if_unused(ctx.obj.app, found, queue)
        _tell(ctx, result, done, as_json=as_json)


def _ask(ctx: click.Context, count: int, chosen: Filter) -> None:
    from rebound_celery.operate.cli.printing import plain

    if count == 0:
        return
    question = f"Cancel {count:,} waiting messages ({plain(str(chosen))})?"
    if not sys.stdin.isatty():
        say(f"Error: {question} Give --yes, because there is no terminal to ask for confirmation", err=True)
        ctx.exit(EXIT_USAGE)
    if not click.confirm(question, err=True):
        say("Nothing was cancelled.", err=True)
        ctx.exit(EXIT_USAGE)


def _say_stopped(progress: Progress | None, done: str) -> None:
    count = 0 if progress is None else progress.changed
    say(f"Stopped. Until then: {count:,} {done}.", err=True)


def _tell(ctx: click.Context, result: ActionResult, done: str, *, as_json: bool) -> None:
    if as_json:
        say(json.dumps(result.to_dict()))
    elif result.dry_run:
        say(f"{result.matched:,} would be {done}")
    else:
        say(f"{result.changed:,} {done}")
        if result.missed:
            say(f"{result.missed:,} were delivered, removed or changed a moment before")
    if len(result.refused) < result.kept:
        say(f"{result.kept:,} stay: they are retries or dead letters, or steps of jobs, and no Celery tasks", err=True)
    _say_disabled(ctx, result)
    for identity in result.leased:
        say(f"A worker holds {identity!r} and delivers it now; it was left alone", err=True)
    for identity in result.unknown:
        say(f"Error: {_nothing(identity)}", err=True)
    for identity, kind in result.refused.items():
        say(f"Error: {identity!r} is {_KINDS[kind]}: it cannot be moved", err=True)
    if result.leased or result.unknown or result.refused:
        ctx.exit(EXIT_NOT_FOUND)


def _say_disabled(ctx: click.Context, result: ActionResult) -> None:
    """Say to which endpoints nothing is sent, whatever is due, and how they are enabled."""
    if not result.disabled or result.action not in ("run-now", "reschedule"):
        return
    from rebound_celery.operate.cli.endpoints import say_disabled

    rebound = rebound_of(ctx)
    with asking_redis(ctx.obj.app):
        found = [endpoint for endpoint in rebound.endpoints if endpoint.url in result.disabled]
    say_disabled(found)


def _nothing(identity: str) -> str:
    return f"nothing waits under {identity!r}: it was delivered, cancelled or given up, or never stored in this queue"


def _pending(ctx: click.Context) -> Pending:
    from rebound_celery.pending import pending_of

    return pending_of(ctx.obj.app)
