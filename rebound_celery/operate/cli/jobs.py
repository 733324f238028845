"""`celery rebound jobs ...`: lists, shows, pauses, resumes and aborts the replays that workers make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rebound_celery.operate.cli.errors import EXIT_NOT_FOUND, plain_errors
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.shared import json_option, rebound_of

if TYPE_CHECKING:
    from rebound_celery.jobs import Job, Jobs
    from rebound_celery.operate.cli.pages import Listing


@click.group()
def jobs() -> None:
    """List the replays that workers make, show their progress, and pause, resume or abort them.

    `dlq replay --job` starts one. Exit status 0: success. 1: Redis does not answer. 2: an option is wrong. 4: there is
    no job with this ID, or it has ended.
    """


@jobs.command()
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="The largest number of rows.")
@click.option("--all", "all_of_them", is_flag=True, help="All rows. It overrides --limit.")
@click.option("--after", metavar="NEXT", help="Continue a list. The end of the list prints NEXT.")
@json_option
@click.pass_context
def ls(ctx: click.Context, limit: int, all_of_them: bool, after: str | None, as_json: bool) -> None:
    """List jobs, the newest first."""
    with plain_errors(ctx):
        from rebound_celery.operate.cli.pages import print_pages

        found = jobs_of(ctx)
        print_pages(
            _listing(),
            lambda position, count, _progress: found.list(position, count),
            after,
            None if all_of_them else limit,
            as_json=as_json,
            is_filtered=False,
        )


@jobs.command()
@click.argument("id_", metavar="ID")
@json_option
@click.pass_context
def show(ctx: click.Context, id_: str, as_json: bool) -> None:
    """Show the details of one job."""
    _tell(ctx, lambda: jobs_of(ctx).get(id_), as_json=as_json)


@jobs.command()
@click.argument("id_", metavar="ID")
@json_option
@click.pass_context
def pause(ctx: click.Context, id_: str, as_json: bool) -> None:
    """Pause a job until it is resumed. It stores no more messages. Those that it has stored are delivered."""
    _tell(ctx, lambda: jobs_of(ctx).pause(id_), as_json=as_json, changed=True)


@jobs.command()
@click.argument("id_", metavar="ID")
@json_option
@click.pass_context
def resume(ctx: click.Context, id_: str, as_json: bool) -> None:
    """Continue a job that is paused, stalled or failed."""
    _tell(ctx, lambda: jobs_of(ctx).resume(id_), as_json=as_json, changed=True)


@jobs.command()
@click.argument("id_", metavar="ID")
@json_option
@click.pass_context
def abort(ctx: click.Context, id_: str, as_json: bool) -> None:
    """End a job. It stores no more messages. Those that it has stored are delivered."""
    _tell(ctx, lambda: jobs_of(ctx).abort(id_), as_json=as_json, changed=True)


def start_job(ctx: click.Context, *, as_json: bool, **options: Any) -> None:
    """Start a job, and print its id."""
    import json

    found = jobs_of(ctx)
    job = found.start(**options)
    if as_json:
        say(json.dumps(found.get(job).to_dict()))
    else:
        say(f"Started job {job}. Show its progress with: jobs show {job}")


def _tell(ctx: click.Context, act: Any, *, as_json: bool, changed: bool = False) -> None:
    """Do something with a job, and print what the job is then."""
    import json

    from rebound_celery.jobs import JobStateError, NoJobError

    with plain_errors(ctx):
        try:
            job = act()
        except (NoJobError, JobStateError) as error:
            say(f"Error: {error}", err=True)
            ctx.exit(EXIT_NOT_FOUND)
        from rebound_celery.operate.cli.printing import output_may_close, print_fields

        with output_may_close():
            if as_json:
                click.echo(json.dumps(job.to_dict()))
            elif changed:
                click.echo(f"Job {job.id} is {job.state}. Stored so far: {job.replayed + job.parked:,}")
            else:
                print_fields(_fields(job))


def _listing() -> Listing:
    """How `jobs ls` lists jobs."""
    from rebound_celery.jobs import Job
    from rebound_celery.operate.cli.pages import Listing
    from rebound_celery.operate.cli.printing import Column

    columns = (
        Column("ID", whole=True),
        Column("STATE", short=True),
        Column("STARTED", short=True),
        Column("REPLAYED", short=True, right=True),
        Column("OF", short=True, right=True),
        Column("SOURCE"),
        Column("FILTER", least_width=100),
    )
    text = "There are no jobs."
    return Listing(columns, _row, Job.to_dict, no_match=text, nothing=text)


def _row(job: Job, now_ms: int) -> tuple[str, ...]:
    from rebound_celery.operate.cli.printing import from_now

    return (
        job.id,
        f"{job.state}, dry run" if job.dry_run else job.state,
        from_now(job.created_ms, now_ms),
        f"{job.replayed + job.parked:,}",
        f"{job.total:,}",
        job.source or "?",
        _filter_text(job),
    )


def _filter_text(job: Job) -> str:
    from rebound_celery.selection import Filter

    return "?" if job.filter is None else str(Filter.parse(job.filter, 0))


def _fields(job: Job) -> dict[str, str | None]:
    from rebound_celery.clock import SYSTEM_CLOCK
    from rebound_celery.operate.cli.printing import at

    now_ms = SYSTEM_CLOCK.now_ms()
    options = {"dry run": job.dry_run, "again": job.again}
    return {
        "id": job.id,
        "state": job.state,
        "error": job.error,
        "source": job.source,
        "filter": _filter_text(job),
        "target": job.target,
        "options": ", ".join(name for name, is_set in options.items() if is_set),
        "limit": None if job.limit is None else f"{job.limit:,}",
        "rate": None if job.rate is None else f"{job.rate:g} a second",
        "parked after": f"{job.max_replays} replays",
        "started": at(job.created_ms, now_ms),
        "changed": at(job.changed_ms, now_ms),
        "ended": at(job.ended_ms, now_ms),
        "deleted": at(job.expires_ms, now_ms),
        "read": f"{job.read:,} of {job.total:,}",
        "matched": f"{job.matched:,}",
        "would be replayed" if job.dry_run else "replayed": f"{job.replayed:,}",
        "parked": f"{job.parked:,}" if job.parked else None,
        "skipped": f"{job.repeated:,}" if job.repeated else None,
        "cannot be replayed": f"{job.left:,}" if job.left else None,
        **{f"problem {number}": text for number, text in enumerate(job.problems, start=1)},
    }


def jobs_of(ctx: click.Context) -> Jobs:
    """The jobs of the command's app."""
    return rebound_of(ctx).jobs
