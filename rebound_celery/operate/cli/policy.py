"""`celery rebound policy show` and `policy test`: what the policies of an app mean."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from rebound_celery.operate.cli.errors import plain_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebound_celery.policy import RetryPolicy
    from rebound_celery.policy.decide import Decision
    from rebound_celery.policy.rules import ErrorRule
    from rebound_celery.policy.table import PolicyTable
    from rebound_celery.policy.timetable import Row

#: Units of time for people, the longest first.
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


@click.group()
def policy() -> None:
    """Show the retry policies of the app, and what they decide about an exception."""


def _chosen(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose a policy."""
    for option in (
        click.option("--topic", help="The policy for records of this topic."),
        click.option("--destination", metavar="URL", help="The policy for this destination: kafka://topic, or a URL."),
        click.option("--file", metavar="FILE", help="A TOML file, instead of the app's rebound_policies."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    ):
        command = option(command)
    return command


@policy.command()
@_chosen
@click.pass_context
def show(ctx: click.Context, topic: str | None, destination: str | None, file: str | None, as_json: bool) -> None:
    """Print the timetable of a policy: each attempt, its delay, the time since the first one, and the time of day.

    It is for a message that arrives now and fails on each attempt. With jitter, the times are the latest ones.
    """
    from dataclasses import asdict

    from rebound_celery.clock import SYSTEM_CLOCK
    from rebound_celery.policy.timetable import timetable

    with plain_errors(ctx):
        entry, found = _find(ctx, topic, destination, file)
        rows = timetable(found, SYSTEM_CLOCK.now_ms())
        if as_json:
            click.echo(
                json.dumps({"entry": entry, "policy": found.to_wire(), "timetable": [asdict(row) for row in rows]})
            )
            return
        click.echo(f"{entry}: {describe(found)}")
        click.echo(f"{'attempt':<12}{'delay':<24}{'since the first':<20}at")
        for row in rows:
            click.echo(_line(row))
        for number, rule in enumerate(found.rules, start=1):
            click.echo(f"rule {number}: {describe_rule(rule)}")


@policy.command()
@click.argument("exception")
@_chosen
@click.option(
    "--cause", "causes", multiple=True, metavar="EXCEPTION", help="A cause of it; may be given several times."
)
@click.option(
    "--attempt",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="The attempt that fails with it.",
)
@click.option(
    "--age", default=0.0, type=click.FloatRange(0), metavar="SECONDS", help="How long ago the first attempt failed."
)
@click.pass_context
def test(
    ctx: click.Context,
    exception: str,
    topic: str | None,
    destination: str | None,
    file: str | None,
    as_json: bool,
    causes: tuple[str, ...],
    attempt: int,
    age: float,
) -> None:
    """Print the decision when a handler raises EXCEPTION: package.module.Class, or the name of a built-in exception.

    The delay is the one without jitter.
    """
    from rebound_celery.policy import Failure, decide
    from rebound_celery.policy.causes import names_of

    with plain_errors(ctx):
        entry, found = _find(ctx, topic, destination, file)
        error = raised("EXCEPTION", exception)
        last = error
        for cause in causes:
            last.__cause__ = last = raised("--cause", cause)
        # Far from 0, so that an age does not lead to a time before 1970.
        now_ms = 10**13
        decision = decide(
            found,
            attempt,
            Failure.of(error),
            first_failed_at_ms=now_ms - round(age * 1000),
            now_ms=now_ms,
            error=error,
            draw=lambda: 1.0,
        )
        rules = list(found.rules)
        rule = found.rule_for(names_of(error))
        number = None if rule is None else rules.index(rule) + 1
        if as_json:
            click.echo(json.dumps({"entry": entry, "rule": number, **decided(decision, now_ms)}))
            return
        by = "no rule is for it" if rule is None else f"rule {number} is for it: {describe_rule(rule)}"
        click.echo(f"{entry}, attempt {attempt}: {outcome_text(decision, now_ms)}; {by}")


def _find(ctx: click.Context, topic: str | None, destination: str | None, file: str | None) -> tuple[str, RetryPolicy]:
    """Return the name of the entry that fits, and its policy."""
    from rebound_celery.message.address import parse_address, policy_names

    if topic is not None and destination is not None:
        raise click.UsageError("give --topic or --destination, not both")
    table = _table(ctx, file)
    if destination is None:
        return table.match(topic)
    return table.match(*policy_names(parse_address(destination, field="--destination")))


def _table(ctx: click.Context, file: str | None) -> PolicyTable:
    from rebound_celery import registry
    from rebound_celery.policy import policy_of
    from rebound_celery.policy.toml import read_toml

    app = ctx.obj.app
    if file is None:
        return registry.find(app).settings.policies
    installed = registry.installed(app)
    if installed is None:
        return read_toml("--file", file, policy_of())
    settings = installed.settings
    return read_toml("--file", file, policy_of(settings.max_retries, settings.base_delay))


def raised(option: str, name: str) -> BaseException:
    """Return an exception of the class with this name, as if it had been raised.

    Raises:
        InvalidSettingError: if there is no such class, or it is an instruction of a handler.
    """
    from celery.utils.imports import cwd_in_path

    from rebound_celery.errors import InvalidSettingError
    from rebound_celery.policy.instructions import Instruction
    from rebound_celery.policy.rules import imported

    try:
        with cwd_in_path():
            kind = imported(name)
    except InvalidSettingError as error:
        raise InvalidSettingError(option, name, error.allowed) from error
    if issubclass(kind, Instruction):
        raise InvalidSettingError(
            option, name, "what follows it is what the handler raises it with; it goes before the rules of every policy"
        )
    # Its own __init__ may ask for arguments that nobody knows here.
    return kind.__new__(kind)


def decided(decision: Decision, now_ms: int) -> dict[str, Any]:
    """Return a decision as a mapping for JSON."""
    from rebound_celery.policy import DeadLetter, Retry

    if isinstance(decision, Retry):
        return {"then": "retry", "delay_s": (decision.due_ms - now_ms) / 1000, "attempt": decision.attempt}
    if isinstance(decision, DeadLetter):
        return {"then": "dead-letter", "reason": decision.reason, "dead_letter_topic": decision.topic}
    return {"then": "drop", "reason": decision.reason}


def outcome_text(decision: Decision, now_ms: int) -> str:
    """Return a decision in words."""
    told = decided(decision, now_ms)
    if told["then"] == "retry":
        return f"attempt {told['attempt']} follows in {duration(told['delay_s'])}"
    if told["then"] == "drop":
        return "it is dropped, without a dead letter"
    where = "" if told["dead_letter_topic"] is None else f" in {told['dead_letter_topic']}"
    return f"it becomes a dead letter{where}: {told['reason']}"


def describe(policy: RetryPolicy) -> str:
    """Return the options of a policy in words."""
    wire = policy.to_wire()
    parts = [f"{wire.pop('kind')}, max_retries {wire.pop('max_retries')}"]
    wire.pop("rules", None)
    parts += [f"{name} {value}" for name, value in wire.items()]
    return ", ".join(parts)


def describe_rule(rule: ErrorRule) -> str:
    """Return a rule in words."""
    wire = rule.to_wire()
    wire.pop("error")
    text = f"{', '.join(rule.names)}: {wire.pop('then')}"
    return ", ".join([text, *(f"{name} {value}" for name, value in wire.items())])


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `1 h 30 min`."""
    parts = []
    left = seconds
    for size, unit in _UNITS:
        if left >= size:
            parts.append(f"{int(left // size)} {unit}")
            left %= size
    if left or not parts:
        parts.append(f"{left:g} s")
    return " ".join(parts[:2])


def _line(row: Row) -> str:
    at = datetime.fromtimestamp(row.at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if row.reason is not None:
        return f"{'dead letter':<12}{row.reason:<24}{duration(row.after_s):<20}{at}"
    delay = duration(row.longest_s)
    if row.least_s != row.longest_s:
        delay = f"{duration(row.least_s)} to {delay}"
    return f"{row.attempt:<12}{delay:<24}{duration(row.after_s):<20}{at}"
