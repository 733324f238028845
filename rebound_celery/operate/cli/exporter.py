"""`celery rebound exporter`: serves the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rebound_celery.operate.cli.errors import EXIT_UNREACHABLE, plain_errors
from rebound_celery.operate.cli.signals import StoppedBySignal

if TYPE_CHECKING:
    from celery import Celery

    from rebound_celery.metrics.lag import ConsumerLag

#: The port if none is given.
PORT = 9808


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen. 0.0.0.0 is for all to see.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--queue", "queues", multiple=True, help="A Celery queue of the app, beside rebound's own; repeatable.")
@click.option("--lag", "groups", multiple=True, metavar="GROUP:TOPIC[,TOPIC]", help="Export a group's lag; repeatable.")
@click.pass_context
def exporter(ctx: click.Context, host: str, port: int, queues: tuple[str, ...], groups: tuple[str, ...]) -> None:
    """Serve metrics: /metrics for Prometheus, /autoscale as JSON for autoscalers, and /healthz.

    Anybody who reaches the port can read them. It runs until SIGTERM or Ctrl-C.
    """
    with plain_errors(ctx):
        from rebound_celery.metrics.exporter import Exporter
        from rebound_celery.metrics.reading import Source
        from rebound_celery.operate.cli.output import say

        app = ctx.obj.app
        lag = _lag_of(app, groups)
        source = Source(app, _queues_of(app, queues))
        try:
            server = Exporter(source, host, port, lag)
        except (OSError, UnicodeError) as error:
            click.echo(f"Error: nothing can listen on {host}:{port}: {error}", err=True)
            ctx.exit(EXIT_UNREACHABLE)
        try:
            if lag is not None:
                lag.start()
            say(f"Metrics are at {server.url}/metrics")
            server.serve_forever()
        except StoppedBySignal:
            # This is how it ends.
            pass
        finally:
            server.server_close()
            source.close()


def _queues_of(app: Celery, queues: tuple[str, ...]) -> tuple[str, ...]:
    """Rebound's own queue, or with `install_schedule` alone the app's default one; and those that are given."""
    from rebound_celery import registry
    from rebound_celery.errors import NotInstalledError
    from rebound_celery.schedule.port import is_installed

    try:
        own = registry.find(app).settings.queue
    except NotInstalledError:
        if not is_installed(app):
            raise
        own = str(app.conf.task_default_queue)
    return own, *queues


def _lag_of(app: Celery, groups: tuple[str, ...]) -> ConsumerLag | None:
    if not groups:
        return None
    from rebound_celery import registry
    from rebound_celery.kafka_common import shared_options
    from rebound_celery.metrics.lag import ConsumerLag, read_lag_options

    settings = registry.find(app).settings
    options = {**shared_options(settings.kafka_options), **settings.kafka_connection()}
    return ConsumerLag(read_lag_options("--lag", groups), settings.kafka_brokers, options)
