"""The snippets of the page about outages and limits run as they are printed, in their order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from rebound_celery import Rebound, Settings
from tests.acceptance.apps.worker import close_redis_connections

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "outages.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_snippets_run(redis_url: str) -> None:
    app: Any = Celery("shop", broker=redis_url, set_as_current=False)
    rebound = Rebound(app)
    namespace: dict[str, Any] = {"app": app}
    try:
        for number, snippet in enumerate(SNIPPETS):
            exec(compile(snippet, f"docs/outages.md, snippet {number}", "exec"), namespace)
        assert list(rebound.breakers) == []
        (lane,) = [lane for lane in rebound.lanes if lane.waiting]
        assert (lane.name, lane.waiting) == ("http:api.example.com:443", 1)
    finally:
        rebound.close()
        close_redis_connections()


@pytest.mark.parametrize("text", re.findall(r"`REBOUND_BREAKER=([^`]+)`", PAGE))
def test_the_environment_variables_are_read(text: str) -> None:
    assert Settings.read({}, {"REBOUND_BREAKER": text}).breaker is not None


def test_the_table_has_the_defaults_of_the_code() -> None:
    options = Settings.read({"rebound_breaker": True}, {}).breaker
    assert options is not None
    for name in ("share", "count", "window", "probe", "max_probe", "drain_rate"):
        default = re.search(rf"^\| `{name}` \| ([\d.]+)", PAGE, re.MULTILINE)
        assert default is not None, name
        assert float(default[1]) == getattr(options, name), name
