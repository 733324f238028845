"""The code in the README runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import rebound_celery
from rebound_celery import Consumer, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_every_snippet_runs(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(Consumer, "run", lambda self, *, handle_signals: ran.append(self))
    app = Celery("shop", broker="memory://")
    if "install_schedule(" not in SNIPPETS[number]:
        rebound_celery.Rebound(app)

    namespace: dict[str, Any] = {"app": app}
    exec(compile(SNIPPETS[number], f"README snippet {number}", "exec"), namespace)

    if "charge" in namespace:
        assert {"rebound.deliver"} < set(namespace["app"].tasks)
    if "Consumer" in namespace:
        assert ran


def test_every_setting_is_in_the_table() -> None:
    for name in Settings.__dataclass_fields__:
        assert f"`rebound_{name}`" in README


def test_every_script_that_it_names_exists() -> None:
    for path in re.findall(r"python (benchmarks/\w+\.py)", README) + re.findall(r"\]\(([\w./]+)\)", README):
        assert (ROOT / path).exists(), path
