"""`celery rebound consume --all`: the consumers that the app declares, in one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from rebound_celery.operate.cli.errors import plain_errors
from rebound_celery.operate.cli.logs import set_up_logging
from rebound_celery.operate.cli.output import say

if TYPE_CHECKING:
    from rebound_celery.app import Rebound
    from rebound_celery.consumer import Consumer
    from rebound_celery.errors import UnreachableError

#: The options that go with `--all`.
_WITH_ALL = ("run_all", "wait", "loglevel", "logfile")


def check_alone(ctx: click.Context) -> None:
    """Refuse options that a declaration has to say.

    Raises:
        click.UsageError: naming the option.
    """
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if name not in _WITH_ALL and ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} does not go with --all: @rebound.consumer(...) says it")


def consume_all(ctx: click.Context, loglevel: str, logfile: str | None, *, wait_again_s: float | None) -> None:
    """Run all consumers of the app until a signal, or until one of them ends by an error."""
    with plain_errors(ctx):
        from rebound_celery import registry
        from rebound_celery.consumer import Consumer, run_together
        from rebound_celery.errors import InvalidSettingError

        app = ctx.obj.app
        import_modules(app)
        set_up_logging(ctx, loglevel, logfile)
        configs = cast("Rebound", registry.find(app)).consumers
        if not configs:
            raise InvalidSettingError(
                "--all",
                app.main,
                "the app's modules declare no consumer; name them in its setting `include`, or, for modules "
                'consumers.py of Django apps, call app.autodiscover_tasks(related_name="consumers")',
            )
        consumers = [Consumer(config, app) for config in configs]
        for config in configs:
            topics: Any = config.topics
            names = topics.pattern if hasattr(topics, "pattern") else ", ".join(topics)  # of the user: a pattern
            click.echo(f"Consumer of group {config.group}: {names}", err=True)
        try:
            run_together(consumers, wait_again_s=wait_again_s, on_unreachable=_Said())
        finally:
            for config, consumer in zip(configs, consumers, strict=True):
                if consumer.stats().total:
                    click.echo(f"Group {config.group}:")
                    print_stats(consumer)


def import_modules(app: Any) -> None:
    """Import the app's modules as a worker does. Celery's fixup for Django sets it up then."""
    app.set_current()
    app.set_default()
    app.loader.init_worker()


class _Said:
    """Says once for each server that it is away."""

    def __init__(self) -> None:
        self._addresses: set[str] = set()

    def __call__(self, error: UnreachableError) -> None:
        if error.address not in self._addresses:
            self._addresses.add(error.address)
            say(f"{error}; trying again until it answers", err=True)


def print_stats(consumer: Consumer) -> None:
    """Print the counts of a consumer."""
    stats = consumer.stats()
    say(stats.to_json())
    say(f"Success rate: {stats.success_rate:.2f}%")
    say(f"Retry rate: {stats.retry_rate:.2f}%")
