"""`celery rebound endpoints ...`: the HTTP endpoints that fail or are disabled, and how they are enabled again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from rebound_celery.operate.cli.errors import EXIT_NOT_FOUND, asking_redis, plain_errors
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.shared import json_option, rebound_of

if TYPE_CHECKING:
    from datetime import datetime

    from rebound_celery.app import Rebound
    from rebound_celery.endpoints import Endpoint

#: How many disabled endpoints are named on stderr after a table.
_MOST_NAMED = 10


@click.group()
def endpoints() -> None:
    """List the HTTP endpoints that fail or are disabled, and enable or disable them.

    An endpoint is a URL without user and query. What comes for a disabled one waits until it is enabled. Exit status 4:
    the endpoint was neither disabled nor failing.
    """


@endpoints.command()
@json_option
@click.pass_context
def ls(ctx: click.Context, as_json: bool) -> None:
    """List the endpoints that fail or are disabled."""
    with plain_errors(ctx):
        from rebound_celery.operate.cli.printing import output_may_close, print_json, print_rows

        rebound = rebound_of(ctx)
        with asking_redis(ctx.obj.app):
            found, waiting = list(rebound.endpoints), _waiting(rebound)
        with output_may_close():
            if as_json:
                for endpoint in found:
                    print_json(endpoint_to_dict(endpoint, waiting.get(endpoint.url, 0)))
                return
            if not found:
                click.echo("No endpoint fails or is disabled.", err=True)
                return
            print_rows(_columns(), [_row(endpoint, waiting.get(endpoint.url, 0)) for endpoint in found])
        say_disabled(found)


@endpoints.command()
@click.argument("url")
@json_option
@click.pass_context
def enable(ctx: click.Context, url: str, as_json: bool) -> None:
    """Send to an endpoint again, what has waited first. Its failures are forgotten."""
    with plain_errors(ctx):
        rebound = rebound_of(ctx)
        with asking_redis(ctx.obj.app):
            others = [endpoint.url for endpoint in rebound.endpoints]
            # Before: workers claim them as soon as it is enabled.
            waiting = _waiting(rebound)
            was_known = rebound.endpoints.enable(url)
            endpoint = rebound.endpoints.get(url)
            count = waiting.get(endpoint.url, 0)
        if as_json:
            say(json.dumps(endpoint_to_dict(endpoint, count)))
        if not was_known:
            say(f"Error: {_unknown(endpoint.url, others)}", err=True)
            ctx.exit(EXIT_NOT_FOUND)
        if not as_json:
            say(f"{endpoint.url} is enabled; {count:,} that waited for it are delivered when they are due")


@endpoints.command()
@click.argument("url")
@click.option("--reason", default="by hand", show_default=True, help="Why, for other operators.")
@json_option
@click.pass_context
def disable(ctx: click.Context, url: str, reason: str, as_json: bool) -> None:
    """Send nothing to an endpoint until it is enabled. What comes for it waits."""
    with plain_errors(ctx):
        rebound = rebound_of(ctx)
        with asking_redis(ctx.obj.app):
            endpoint = rebound.endpoints.disable(url, reason)
            count = _waiting(rebound).get(endpoint.url, 0)
        if as_json:
            say(json.dumps(endpoint_to_dict(endpoint, count)))
        else:
            say(f"{endpoint.url} is {disabled_text(endpoint)}; what comes for it waits")


def disabled_text(endpoint: Endpoint) -> str:
    """Since when an endpoint is disabled, and why."""
    since = endpoint.disabled_at
    return since_text(None if since is None else round(since.timestamp() * 1000), endpoint.reason)


def since_text(since_ms: int | None, reason: str | None) -> str:
    """Since when, in Unix milliseconds, something is disabled, and why."""
    from rebound_celery.clock import SYSTEM_CLOCK
    from rebound_celery.operate.cli.printing import at

    return f"disabled since {at(since_ms, SYSTEM_CLOCK.now_ms())}, {reason}"


def enable_text(url: str) -> str:
    """The command that enables an endpoint."""
    import shlex

    return f"celery rebound endpoints enable {shlex.quote(url)}"


def say_disabled(found: Iterable[Endpoint]) -> None:
    """Say on stderr which of these endpoints are disabled, and how each is enabled."""
    from rebound_celery.operate.cli.printing import plain

    disabled = [endpoint for endpoint in found if endpoint.disabled_at is not None]
    for endpoint in disabled[:_MOST_NAMED]:
        text = f"{endpoint.url} is {disabled_text(endpoint)}: what is for it waits. To enable it: "
        say(plain(text + enable_text(endpoint.url)), err=True)
    if len(disabled) > _MOST_NAMED:
        say(f"{len(disabled) - _MOST_NAMED:,} more are disabled: celery rebound endpoints ls", err=True)


def endpoint_to_dict(endpoint: Endpoint, waiting: int) -> dict[str, Any]:
    """Return an endpoint as JSON has it, with stable keys."""
    return {
        "url": endpoint.url,
        "waiting": waiting,
        "failures": endpoint.failures,
        "failing_since_ms": _ms(endpoint.failing_since),
        "slow_until_ms": _ms(endpoint.slow_until),
        "disabled_since_ms": _ms(endpoint.disabled_at),
        "disabled_reason": endpoint.reason or None,
    }


def _ms(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)


def _waiting(rebound: Rebound) -> dict[str, int]:
    """How many wait in the lane of each endpoint."""
    from rebound_celery.delivery.lanes import endpoint_of

    counts: dict[str, int] = {}
    for lane in rebound.lanes:
        url = endpoint_of(lane.name)
        if url is not None:
            counts[url] = counts.get(url, 0) + lane.waiting
    return counts


def _columns() -> tuple[Any, ...]:
    from rebound_celery.operate.cli.printing import Column

    return (
        Column("WAITING", short=True, right=True),
        Column("FAILURES", short=True, right=True),
        Column("ENDPOINT", whole=True),
        Column("STATE"),
    )


def _row(endpoint: Endpoint, waiting: int) -> tuple[str, ...]:
    from rebound_celery.clock import SYSTEM_CLOCK
    from rebound_celery.operate.cli.printing import from_now

    now_ms = SYSTEM_CLOCK.now_ms()
    if endpoint.disabled_at is not None:
        state = disabled_text(endpoint)
    elif endpoint.slow_until is not None and (_ms(endpoint.slow_until) or 0) > now_ms:
        state = f"paused, ends {from_now(_ms(endpoint.slow_until), now_ms)}"
    else:
        state = f"fails since {from_now(_ms(endpoint.failing_since), now_ms).removesuffix(' ago')}"
    return f"{waiting:,}", f"{endpoint.failures:,}", endpoint.url, state


def _unknown(url: str, others: Iterable[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(url, others, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`celery rebound endpoints ls` lists those that are"
    return f"{url} was neither disabled nor failing: {hint}"
