"""`celery rebound consume` refuses wrong arguments in one line, before anything connects."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from rebound_celery import ConsumerConfig
from rebound_celery.clock import SystemClock
from rebound_celery.config import Settings
from rebound_celery.errors import InvalidSettingError, UnreachableError
from rebound_celery.operate.cli.commands import load_handler, read_option, rebound


def away() -> None:
    raise UnreachableError("Redis", "127.0.0.1:1", "connection refused")


def declaring(*topics: str) -> SimpleNamespace:
    """A Rebound whose servers are away, and which has a consumer of each topic."""
    configs = tuple(ConsumerConfig(group="g", topics=topic, handler=print) for topic in topics)
    return SimpleNamespace(settings=Settings(), check_redis=away, consumers=configs)


def make_app(**attributes: Any) -> SimpleNamespace:
    """A Celery app, as far as the command uses one before it connects."""

    def nothing() -> None: ...

    loader = SimpleNamespace(init_worker=nothing)
    # Celery's would change the logging of this process.
    log = SimpleNamespace(setup=lambda *_, **__: [])
    return SimpleNamespace(main="fake", set_current=nothing, set_default=nothing, loader=loader, log=log, **attributes)


APP = make_app(rebound=SimpleNamespace(settings=Settings(), check_redis=away))
ARGUMENTS = ["consume", "--group", "g", "--handler", "builtins:print", "--loglevel", "ERROR"]


def run(*arguments: str, app: Any = APP) -> Result:
    return CliRunner().invoke(rebound, [*ARGUMENTS, *arguments], obj=SimpleNamespace(app=app, no_color=False))


@pytest.mark.parametrize(
    ("arguments", "app", "status", "said"),
    [
        (["--topic", "t"], APP, 1, "cannot reach Redis at 127.0.0.1:1"),
        (["--topic", "t"], make_app(), 2, "'fake' has no Rebound"),
        (["--topic", "t", "--max-retries", "101"], APP, 2, "max_retries=101"),
        (["--topic", "t", "--option", "group_id=x"], APP, 2, "group_id"),
        (["--topic", "t", "--on-unreadable", "skip"], APP, 1, "cannot reach Redis at 127.0.0.1:1"),
        (["--topic", "t", "--option", "group_id"], APP, 2, "name=value"),
        (["--topic", "t", "--handler", "builtins:nothing"], APP, 2, "has no 'nothing'"),
        (["--pattern", "("], APP, 2, "no regular expression"),
    ],
)
def test_an_error_is_one_line_with_its_status(arguments: list[str], app: Any, status: int, said: str) -> None:
    result = run(*arguments, app=app)
    assert result.exit_code == status
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [[], ["--topic", "t", "--pattern", "t"]])
def test_topics_are_given_one_way(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize("path", ["", "json", ":dumps", "json:", "no_such_module:f", "json:nope", "json:__doc__"])
def test_a_bad_handler_path_is_named(path: str) -> None:
    with pytest.raises(InvalidSettingError, match="--handler"):
        load_handler(path)


@pytest.mark.parametrize(
    ("text", "value"), [("a=1", 1), ("a=true", True), ("a=x", "x"), ("a=", ""), ("a=b=c", "b=c"), ("a=[1]", [1])]
)
def test_option_values_are_json_or_text(text: str, value: object) -> None:
    assert read_option(text) == ("a", value)


def test_signals_end_a_command_from_its_first_line_and_their_handlers_are_restored() -> None:
    @click.command()
    def stand_still() -> None:
        signal.raise_signal(signal.SIGTERM)
        click.echo("went on")

    rebound.add_command(stand_still)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        result = CliRunner().invoke(rebound, ["stand-still"])
    finally:
        del rebound.commands["stand-still"]

    assert (result.exit_code, result.output) == (128 + signal.SIGTERM, "")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_signal_between_two_tries_to_connect_ends_the_consumer_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SystemClock, "sleep", lambda _self, _seconds: signal.raise_signal(signal.SIGTERM))

    result = run("--topic", "t", "--wait")

    assert result.exit_code == 0
    assert "trying again" in result.stderr


def test_signal_while_a_server_does_not_answer_ends_the_consumer_in_order() -> None:
    app = make_app(
        rebound=SimpleNamespace(settings=Settings(), check_redis=lambda: signal.raise_signal(signal.SIGTERM))
    )

    result = run("--topic", "t", "--wait", app=app)

    assert result.exit_code == 0
    assert '"TotalMessages": 0' in result.stdout


def test_celery_starts_without_kafka() -> None:
    code = "import rebound_celery.operate.cli.commands, sys; sys.exit('kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "app", "status", "said"),
    [
        ([], make_app(), 2, "'fake' has no Rebound"),
        ([], make_app(rebound=declaring()), 2, "declare no consumer"),
        ([], make_app(rebound=declaring("a", "b")), 1, "Error: cannot reach Redis at 127.0.0.1:1"),
        (["--topic", "t"], APP, 2, "--topic does not go with --all"),
        (["--concurrency", "8"], APP, 2, "--concurrency does not go with --all"),
    ],
)
def test_all_consumers_of_an_app_need_no_options_and_take_none(
    arguments: list[str], app: Any, status: int, said: str
) -> None:
    result = CliRunner().invoke(rebound, ["consume", "--all", *arguments], obj=SimpleNamespace(app=app, no_color=False))

    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("given", ["--group", "--handler"])
def test_without_all_group_and_handler_are_needed(given: str) -> None:
    missing = {"--group": "--handler", "--handler": "--group"}[given]

    result = CliRunner().invoke(
        rebound, ["consume", "--topic", "t", given, "x"], obj=SimpleNamespace(app=APP, no_color=False)
    )

    assert result.exit_code == 2
    assert f"Missing option '{missing}'" in result.stderr
