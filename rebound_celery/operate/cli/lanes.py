"""`celery rebound lanes ...`: the destinations, what waits for each, pauses and rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from rebound_celery.operate.cli.errors import EXIT_NOT_FOUND, asking_redis, plain_errors
from rebound_celery.operate.cli.shared import json_option, rebound_of

if TYPE_CHECKING:
    from rebound_celery.app import Rebound
    from rebound_celery.endpoints import Endpoint
    from rebound_celery.schedule.port import Breaker, Lane


@click.group()
def lanes() -> None:
    """List the destinations for which messages wait, pause them, and limit their rates.

    A DESTINATION is `kafka://topic`, a URL (for its whole host), or a lane that `ls` prints.
    """


@lanes.command()
@json_option
@click.pass_context
def ls(ctx: click.Context, as_json: bool) -> None:
    """List the lanes in which messages wait, and those with a pause, a rate or an open circuit breaker."""
    with plain_errors(ctx):
        from rebound_celery.delivery.lanes import endpoint_of
        from rebound_celery.operate.cli.endpoints import say_disabled
        from rebound_celery.operate.cli.printing import output_may_close, print_json, print_rows

        rebound = rebound_of(ctx)
        with asking_redis(ctx.obj.app):
            found = {lane.name: lane for lane in rebound.lanes}
            breakers = {breaker.lane: breaker for breaker in rebound.breakers}
            disabled = {each.url: each for each in rebound.endpoints if each.disabled_at is not None}
        names = sorted({*found, *breakers})
        with output_may_close():
            if as_json:
                for name in names:
                    endpoint = disabled.get(endpoint_of(name) or "")
                    print_json(lane_to_dict(name, found.get(name), breakers.get(name), endpoint))
                return
            if not names:
                click.echo("Nothing waits, and no lane has a pause or a rate.", err=True)
                return
            ends = {name: disabled.get(endpoint_of(name) or "") for name in names}
            print_rows(_columns(), [_row(name, found.get(name), breakers.get(name), ends[name]) for name in names])
        say_disabled(endpoint for endpoint in ends.values() if endpoint is not None)


@lanes.command()
@click.argument("destination")
@click.option("--for", "duration", required=True, metavar="DURATION", help="How long: 30s, 10min, 2h, 1d.")
@json_option
@click.pass_context
def pause(ctx: click.Context, destination: str, duration: str, as_json: bool) -> None:
    """Deliver nothing to a destination for some time. What is due waits."""
    with plain_errors(ctx):
        from rebound_celery.selection import duration_text, read_duration_s

        seconds = read_duration_s("--for", duration)
        _change(
            ctx,
            destination,
            lambda rebound: rebound.lanes.pause(destination, seconds),
            f"paused for {duration_text(seconds)}",
            as_json=as_json,
        )


@lanes.command()
@click.argument("destination")
@json_option
@click.pass_context
def resume(ctx: click.Context, destination: str, as_json: bool) -> None:
    """End a pause. A circuit breaker that is open stays open.

    The lane of a disabled endpoint is not resumed, because workers would pause it again (exit status 4).
    """
    with plain_errors(ctx):
        _refuse_disabled(ctx, destination)
        _change(
            ctx,
            destination,
            lambda rebound: rebound.lanes.resume(destination),
            "not paused any more",
            "There was no pause to end.",
            as_json=as_json,
        )


@lanes.command()
@click.argument("destination")
@click.argument("per_second", metavar="NUMBER|none")
@json_option
@click.pass_context
def rate(ctx: click.Context, destination: str, per_second: str, as_json: bool) -> None:
    """Limit the deliveries of all workers together to NUMBER messages a second. none removes the limit."""
    with plain_errors(ctx):
        limit = _read_rate(per_second)
        text = "without a limit" if limit is None else f"limited to {limit:g} a second"
        _change(ctx, destination, lambda rebound: rebound.lanes.set_rate(destination, limit), text, as_json=as_json)


def _refuse_disabled(ctx: click.Context, destination: str) -> None:
    """End the command if a lane is that of a disabled endpoint, and say how it is enabled.

    A URL names the lane of its whole host, which is resumed even if its endpoint is disabled. This is said.
    """
    from rebound_celery.delivery.lanes import endpoint_of
    from rebound_celery.delivery.steering import lane_name
    from rebound_celery.operate.cli.endpoints import disabled_text, enable_text, say_disabled
    from rebound_celery.operate.cli.output import say

    rebound, url = rebound_of(ctx), endpoint_of(lane_name(destination))
    is_url = destination.lower().startswith(("http://", "https://"))
    if url is None and not is_url:
        return
    with asking_redis(ctx.obj.app):
        endpoint = rebound.endpoints.get(url or destination)
    if endpoint.disabled_at is None:
        return
    if url is None:
        say_disabled([endpoint])
        return
    text = f"{url} is {disabled_text(endpoint)}, and workers pause its lane again. To enable it: {enable_text(url)}"
    say(f"Error: {text}", err=True)
    ctx.exit(EXIT_NOT_FOUND)


def _read_rate(text: str) -> float | None:
    from rebound_celery.errors import InvalidSettingError

    if text.lower() == "none":
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidSettingError("NUMBER", text, "it is a number above 0, at most 1,000,000, or none") from None


def _change(
    ctx: click.Context,
    destination: str,
    change: Callable[[Rebound], None],
    text: str,
    if_unknown: str = "The change holds for messages that come later.",
    *,
    as_json: bool,
) -> None:
    """Change a lane, and print what it is now.

    Args:
        ctx: the context of the command.
        destination: names the lane.
        change: changes it.
        text: what the lane is then.
        if_unknown: said if nothing waits in the lane, and it had neither pause nor rate.
        as_json: whether the lane is printed as JSON.
    """
    import json

    from rebound_celery.delivery.lanes import endpoint_of
    from rebound_celery.delivery.steering import lane_name
    from rebound_celery.operate.cli.output import say

    rebound, name = rebound_of(ctx), lane_name(destination)
    with asking_redis(ctx.obj.app):
        before = {*(lane.name for lane in rebound.lanes), *(breaker.lane for breaker in rebound.breakers)}
        change(rebound)
        lane, breaker, url = rebound.lanes.get(name), rebound.breakers.get(name), endpoint_of(name)
        endpoint = None if url is None else rebound.endpoints.get(url)
    if name not in before:
        say(_unknown(name, before, if_unknown), err=True)
    if as_json:
        disabled = None if endpoint is None or endpoint.disabled_at is None else endpoint
        say(json.dumps(lane_to_dict(name, lane, breaker, disabled)))
        return
    say(f"{name} is {text}; {0 if lane is None else lane.waiting:,} wait in it")
    if breaker is not None and breaker.state == "open":
        say(f"Its circuit breaker is open: {breaker.error}", err=True)


def _unknown(name: str, lanes: Iterable[str], text: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, lanes, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "is the name right?"
    return f"Nothing waits in {name} now, and it had neither pause nor rate: {hint} {text}"


def lane_to_dict(
    name: str, lane: Lane | None, breaker: Breaker | None, disabled: Endpoint | None = None
) -> dict[str, Any]:
    """Return a lane as JSON has it, with stable keys.

    Args:
        name: its name.
        lane, breaker: the lane and its circuit breaker; None where there is none.
        disabled: the endpoint whose lane it is, if it is disabled.
    """
    from dataclasses import asdict

    since = None if disabled is None else disabled.disabled_at
    return {
        "lane": name,
        "waiting": 0 if lane is None else lane.waiting,
        "next_due_ms": None if lane is None else lane.next_due_ms,
        "paused_until_ms": None if lane is None else lane.paused_until_ms,
        "disabled_since_ms": None if since is None else round(since.timestamp() * 1000),
        "disabled_reason": None if disabled is None else disabled.reason,
        "rate": None if lane is None else lane.rate,
        "breaker": None if breaker is None else {key: value for key, value in asdict(breaker).items() if key != "lane"},
    }


def _columns() -> tuple[Any, ...]:
    from rebound_celery.operate.cli.printing import Column

    return (
        Column("WAITING", short=True, right=True),
        Column("NEXT DUE", short=True),
        Column("LANE", whole=True),
        Column("PAUSE"),
        Column("RATE"),
        Column("BREAKER"),
    )


def _row(name: str, lane: Lane | None, breaker: Breaker | None, disabled: Endpoint | None) -> tuple[str, ...]:
    from rebound_celery.clock import SYSTEM_CLOCK
    from rebound_celery.operate.cli.endpoints import disabled_text
    from rebound_celery.operate.cli.printing import from_now

    now_ms = SYSTEM_CLOCK.now_ms()
    if lane is None:
        return "0", "", name, "", "", "" if breaker is None else breaker.state
    pause = "" if lane.paused_until_ms is None else f"pause ends {from_now(lane.paused_until_ms, now_ms)}"
    return (
        f"{lane.waiting:,}",
        from_now(lane.next_due_ms, now_ms),
        name,
        pause if disabled is None else disabled_text(disabled),
        "" if lane.rate is None else f"{lane.rate:g}/s",
        "" if breaker is None else breaker.state,
    )
