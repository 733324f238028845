"""`celery rebound ...`: the commands, as Celery finds them by the entry point `celery.commands`.

Every start of `celery` imports this module, whatever its command. So each command imports what it needs itself.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from rebound_celery.demo.command import demo
from rebound_celery.operate.cli.chains import chains
from rebound_celery.operate.cli.consume_all import check_alone, consume_all, import_modules, print_stats
from rebound_celery.operate.cli.dlq import dlq
from rebound_celery.operate.cli.endpoints import endpoints
from rebound_celery.operate.cli.errors import EXIT_UNREACHABLE, plain_errors
from rebound_celery.operate.cli.exporter import exporter
from rebound_celery.operate.cli.jobs import jobs
from rebound_celery.operate.cli.lanes import lanes
from rebound_celery.operate.cli.logs import LOG_LEVELS, set_up_logging
from rebound_celery.operate.cli.output import say
from rebound_celery.operate.cli.pending import pending
from rebound_celery.operate.cli.policy import policy
from rebound_celery.operate.cli.signals import StoppedBySignal, exit_on_signals
from rebound_celery.operate.cli.stats import stats

if TYPE_CHECKING:
    from rebound_celery.consumer import Consumer

#: The time between two tries of `--wait`, in seconds.
WAIT_AGAIN_S = 1.0


@click.group()
@click.pass_context
def rebound(ctx: click.Context) -> None:
    """Retries and dead letters for Kafka consumers."""
    exit_on_signals(ctx)


rebound.add_command(demo)
rebound.add_command(policy)
rebound.add_command(chains)
rebound.add_command(pending)
rebound.add_command(dlq)
rebound.add_command(jobs)
rebound.add_command(lanes)
rebound.add_command(endpoints)
rebound.add_command(stats)
rebound.add_command(exporter)


def load_handler(path: str, option: str = "--handler") -> Callable[..., object]:
    """Return the function that `package.module:function` names.

    Raises:
        InvalidSettingError: naming `option`, and saying what could not be imported.
    """
    from celery.utils.imports import cwd_in_path

    from rebound_celery.errors import InvalidSettingError

    module_name, colon, name = path.partition(":")
    if not module_name or not colon or not name:
        raise InvalidSettingError(option, path, "give it as package.module:function")
    with cwd_in_path():
        try:
            found: Any = importlib.import_module(module_name)
        except Exception as error:
            raise InvalidSettingError(
                option, path, f"the module {module_name!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise InvalidSettingError(option, path, f"the module {module_name!r} has no {name!r}") from None
    if not callable(found):
        raise InvalidSettingError(option, path, f"{name!r} is no function")
    return found  # type: ignore[no-any-return]


def read_option(text: str) -> tuple[str, Any]:
    """Read `name=value`. The value is JSON (a number, true, null, a list), or else text.

    Raises:
        InvalidSettingError: if there is no name, or no `=`.
    """
    from rebound_celery.errors import InvalidSettingError

    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidSettingError("--option", text, "give it as name=value")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _read_pattern(text: str) -> re.Pattern[str]:
    from rebound_celery.errors import InvalidSettingError

    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidSettingError("--pattern", text, f"it is no regular expression: {error}") from error


@rebound.command(short_help="Call a function with each record of a Kafka topic.")
@click.option("--topic", "topics", multiple=True, help="A topic to consume; may be given several times.")
@click.option("--pattern", help="Instead of --topic: a regular expression that whole topic names match.")
@click.option("--group", help="The consumer group.")
@click.option("--handler", "handler_path", metavar="MODULE:FUNCTION", help="Called with each record.")
@click.option("--all", "run_all", is_flag=True, help="Run the consumers that the app declares: @rebound.consumer(...).")
@click.option("--brokers", help="host:port, several with commas. Default: rebound_kafka_brokers of the app.")
@click.option("--max-retries", type=int, help="0 to 100. Default: rebound_max_retries of the app.")
@click.option("--base-delay", type=float, help="Seconds, 1 to 3600. Default: rebound_base_delay of the app.")
@click.option("--dead-letter-topic", help="Default: the topic's name and rebound_dead_letter_suffix of the app.")
@click.option(
    "--deserializer",
    metavar="MODULE:FUNCTION",
    help="Decodes each value for record.data, or 'json'. A value that cannot be decoded becomes a dead letter at once.",
)
@click.option("--dead-letter-limit", type=int, help="Stop, with status 3, before more dead letters in a row than this.")
@click.option("--dead-letter-share", type=float, help="Stop, with status 3, before a larger share of dead letters.")
@click.option(
    "--dead-letter-window",
    type=int,
    default=100,
    show_default=True,
    help="How many records --dead-letter-share counts.",
)
@click.option("--retry-topic", help="Where retries go; it is consumed too. Default: the topic a record came from.")
@click.option("--concurrency", type=int, default=8, show_default=True, help="Handler threads.")
@click.option(
    "--on-unreadable",
    type=click.Choice(("stop", "skip", "dead-letter")),
    default="stop",
    show_default=True,
    help="What to do with records that are damaged, or whose codec is not installed. Other partitions continue.",
)
@click.option("--failure-pause", is_flag=True, help="Stop fetching while most records fail for the same reason.")
@click.option(
    "--ordering", type=click.Choice(("key",)), help="key: records wait while an earlier one of their key is retried."
)
@click.option(
    "--after-dead-letter",
    type=click.Choice(("continue", "hold")),
    default="continue",
    show_default=True,
    help="With --ordering key: whether a key continues after a dead letter, or waits until it is released.",
)
@click.option("--allow-auto-create", is_flag=True, help="Request missing topics from Kafka, which may create them.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Another option of kafka-python.")
@click.option("--health-file", metavar="FILE", help="Rewritten every few seconds while the consumer is healthy.")
@click.option("--wait", is_flag=True, help="At the start, keep trying until Kafka and Redis answer.")
@click.option("--loglevel", type=click.Choice(LOG_LEVELS, case_sensitive=False), default="INFO", show_default=True)
@click.option("--logfile", metavar="FILE", help="Where to write the log. Default: stderr.")
@click.pass_context
def consume(
    ctx: click.Context,
    /,
    topics: tuple[str, ...],
    pattern: str | None,
    group: str | None,
    handler_path: str | None,
    run_all: bool,
    deserializer: str | None,
    options: tuple[str, ...],
    wait: bool,
    loglevel: str,
    logfile: str | None,
    **settings: Any,
) -> None:
    """Call a function with each record of a Kafka topic. Failed records are retried, and then become dead letters.

    After SIGINT or SIGTERM, running calls finish, their offsets are committed, and the command ends. After a second
    signal, it does not wait for running calls. The app's modules are imported as a worker imports them, and Django is
    set up. Logging is set up as in a worker, with Celery's settings and signals.

    With --all, the options of each consumer are those of its declaration.
    """
    if run_all:
        check_alone(ctx)
        consume_all(ctx, loglevel, logfile, wait_again_s=WAIT_AGAIN_S if wait else None)
        return
    if group is None or handler_path is None:
        missing = "--group" if group is None else "--handler"
        raise click.UsageError(f"Missing option '{missing}'. (Or give --all.)")
    if bool(topics) == bool(pattern):
        raise click.UsageError("give either --topic or --pattern")
    with plain_errors(ctx):
        from rebound_celery.consumer import Consumer, ConsumerConfig

        app = ctx.obj.app
        import_modules(app)
        set_up_logging(ctx, loglevel, logfile)
        decode: Any = deserializer
        if deserializer is not None and deserializer != "json":
            decode = load_handler(deserializer, "--deserializer")
        config = ConsumerConfig(
            group=group,
            topics=topics if pattern is None else _read_pattern(pattern),
            handler=load_handler(handler_path),
            deserializer=decode,
            kafka_options=dict(read_option(option) for option in options),
            **settings,
        )
        consumer = Consumer(config, app)
        try:
            _run(consumer, wait=wait)
        except StoppedBySignal:
            # Between two tries to connect: nothing was started that has to be finished.
            ctx.exit(0)
        except BaseException:
            if consumer.stats().total:
                print_stats(consumer)
            raise
        print_stats(consumer)


def _run(consumer: Consumer, *, wait: bool) -> None:
    from rebound_celery.clock import SYSTEM_CLOCK
    from rebound_celery.errors import UnreachableError

    said = set()
    while True:
        try:
            consumer.run(handle_signals=True)
        except UnreachableError as error:
            if not wait:
                raise
            if error.address not in said:
                said.add(error.address)
                say(f"{error}; trying again until it answers", err=True)
            SYSTEM_CLOCK.sleep(WAIT_AGAIN_S)
        else:
            return


@rebound.command(short_help="Check servers, workers and settings for risks of losing messages.")
@click.option("--topic", "topics", multiple=True, help="A consumed topic; its dead letter topic is checked too.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="An option of your consumers.")
@click.option("--timeout", default=3.0, show_default=True, metavar="SECONDS", help="How long workers have to answer.")
@click.option("--no-kafka", is_flag=True, help="Do not check Kafka: the app delivers over HTTP only.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON list.")
@click.pass_context
def doctor(
    ctx: click.Context,
    topics: tuple[str, ...],
    options: tuple[str, ...],
    timeout: float,
    no_kafka: bool,
    as_json: bool,
) -> None:
    """Check Redis, Kafka, the workers and the installed packages for problems that can lose or delay messages.

    Exit status 0: no problem was found (there may be warnings). 1: there is a problem. 2: the check could not run.
    """
    from dataclasses import asdict

    from rebound_celery import registry
    from rebound_celery.operate.doctor import examine
    from rebound_celery.operate.finding import PROBLEM
    from rebound_celery.schedule.port import is_installed

    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    with plain_errors(ctx):
        app = ctx.obj.app
        if not is_installed(app):
            registry.find(app)  # raises NotInstalledError
        consumer_options = dict(read_option(option) for option in options)
        findings = examine(app, topics, timeout, consumer_options, kafka=not no_kafka)
        if as_json:
            click.echo(json.dumps([asdict(finding) for finding in findings]))
        else:
            for finding in findings:
                click.echo(f"{finding.level:<8} {finding.subject}: {finding.text}")
        ctx.exit(EXIT_UNREACHABLE if any(finding.level == PROBLEM for finding in findings) else 0)
