"""The command line of `celery rebound demo`."""

from __future__ import annotations

import sys
from typing import Any

import click


# Click leaves the options as texts. DemoOptions checks them, so that each wrong value gives one line.
@click.command(short_help="Show retries at work, with embedded servers and Flower.")
@click.option("--duration", default="30", metavar="TIME", help="How long it produces: 60, 60s, 2m, 1m30s. [30]")
@click.option("--failure-rate", default="0.3", metavar="SHARE", help="Messages that fail at first, 0 to 1. [0.3]")
@click.option("--always-fail-rate", default="0.05", metavar="SHARE", help="Messages that fail every time. [0.05]")
@click.option("--rate", default="50", metavar="NUMBER", help="Messages a second. [50]")
@click.option("--max-retries", default="3", metavar="NUMBER", help="Retries before a dead letter, 0 to 100. [3]")
@click.option("--base-delay", default="1", metavar="SECONDS", help="Wait before the first retry, 1 to 3600. [1]")
@click.option(
    "--worker-pool",
    default="threads",
    metavar="NAME",
    help="The worker's: prefork, threads, solo, gevent, eventlet. [threads]",
)
# Celery itself reads --pool from every command line, before this module is loaded. It then imports gevent or eventlet
# into this process, and shows a traceback where they are not installed.
@click.option("--pool", hidden=True)
@click.option("--drain/--no-drain", default=True, help="After producing, wait until no message waits. [--drain]")
@click.option("--flower/--no-flower", default=True, help="Start Flower too, on port 5555 or a free one. [--flower]")
@click.option(
    "--exit/--stay",
    "exits",
    default=None,
    help="After the balance, end, or keep Flower until Ctrl-C. [--stay on a terminal, --exit with --json]",
)
@click.option("--json", is_flag=True, help="Print the balance as one JSON object on stdout.")
@click.option("--kafka", metavar="HOST:PORT", help="Use this Kafka instead of the embedded one.")
@click.option("--redis", metavar="URL", help="Use this Redis instead of the embedded one.")
def demo(worker_pool: str, pool: str | None, **texts: Any) -> None:
    """Run all parts: Kafka, Redis, a worker, a consumer that fails on purpose, and Flower.

    Kafka and Redis are embedded and keep everything in memory. The id of a message decides how often it fails. It comes
    back after the policy's delays, and in the end it is handled or a dead letter. Then the demo looks for every message
    id in Kafka, and prints the balance. Exit status 0 means that nothing was lost, and that the dead letters are
    exactly the messages that always fail.

    Ctrl-C ends the run at any time and prints the balance so far. A second Ctrl-C ends everything at once.
    """
    # Imported here, because every start of `celery` loads this module.
    from ..errors import InvalidSettingError
    from .options import DemoOptions
    from .run import run

    try:
        options = DemoOptions.read(worker_pool=worker_pool if pool is None else pool, **texts)
    except InvalidSettingError as error:
        name = "--" + error.field.replace("_", "-")
        click.echo(f"Error: {name} {error.value!r} cannot be used: {error.allowed}", err=True)
        sys.exit(2)
    sys.exit(run(options))
