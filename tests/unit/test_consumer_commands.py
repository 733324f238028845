"""`celery rebound consume`: what it refuses, in one line, before anything connects."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rebound_celery.config import Settings
from rebound_celery.errors import InvalidSettingError, UnreachableError
from rebound_celery.operate.cli.commands import load_handler, read_option, rebound


def away() -> None:
    raise UnreachableError("Redis", "127.0.0.1:1", "connection refused")


APP = SimpleNamespace(main="fake", rebound=SimpleNamespace(settings=Settings(), check_redis=away))
ARGUMENTS = ["consume", "--group", "g", "--handler", "builtins:print", "--loglevel", "ERROR"]


def run(*arguments: str, app: Any = APP) -> Result:
    return CliRunner().invoke(rebound, [*ARGUMENTS, *arguments], obj=SimpleNamespace(app=app))


@pytest.mark.parametrize(
    ("arguments", "app", "status", "said"),
    [
        (["--topic", "t"], APP, 1, "cannot reach Redis at 127.0.0.1:1"),
        (["--topic", "t"], SimpleNamespace(main="bare"), 2, "'bare' has no Rebound"),
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


def test_celery_starts_without_kafka() -> None:
    code = "import rebound_celery.operate.cli.commands, sys; sys.exit('kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
