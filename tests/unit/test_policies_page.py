"""The page on policies: its snippets run, its output is what the commands print, and its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from rebound_celery import InvalidSettingError, Rebound, Settings
from rebound_celery.operate.cli.commands import rebound
from rebound_celery.policy.policy import OPTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "policies.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(TOML,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
CONSOLE = re.findall(r"```console\n\$ celery -A shop rebound (.*?)\n(.*?)```", PAGE, re.DOTALL)


def app_of(file: Path) -> Any:
    file.write_text(TOML)
    settings = Settings.read({"rebound_policies": file}, {})
    return SimpleNamespace(main="shop", rebound=SimpleNamespace(settings=settings))


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_every_snippet_runs(number: int) -> None:
    app = Celery("shop", broker="memory://")
    app.rebound = Rebound(app)

    exec(compile(PYTHON[number], f"snippet {number}", "exec"), {"app": app})

    assert app.rebound.settings.policies.find("orders-eu").max_retries in (3, 5)


@pytest.mark.parametrize(("command", "printed"), CONSOLE)
def test_every_command_prints_what_the_page_shows(command: str, printed: str, tmp_path: Path) -> None:
    app = app_of(tmp_path / "policies.toml")

    result = CliRunner().invoke(rebound, command.split(), obj=SimpleNamespace(app=app))

    time = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
    assert time.sub("", result.output) == time.sub("", printed)


def test_the_error_that_the_page_shows_is_that_of_its_file(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```text\n(.*?)\n```", PAGE)
    file = tmp_path / "policies.toml"
    file.write_text(TOML.replace("[1, 60, 3600]", "[1, -60, 3600]"))

    with pytest.raises(InvalidSettingError) as refused:
        Settings.read({"rebound_policies": file}, {})

    assert str(refused.value) == f"{tmp_path}/{shown}"


def test_every_option_is_in_the_table() -> None:
    for option in OPTIONS:
        assert f"\n| `{option}` |" in PAGE
