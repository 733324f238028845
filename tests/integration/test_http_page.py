"""The snippets of the page about HTTP receivers do what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from celery import Celery

from rebound_celery import HttpOptions, Rebound
from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.destinations.http_plan import Plans
from rebound_celery.destinations.http_signatures import Signer
from rebound_celery.message.address import HttpAddress

PAGE = Path(__file__).parents[2] / "docs" / "http.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_snippets_of_the_page_run(redis_url: str, capsys: Any) -> None:
    options, rotation, receiver, endpoints = SNIPPETS

    names: dict[str, Any] = {}
    exec(options, names)
    plan = Plans(names["rebound"].settings.http_destinations).of(HttpAddress("https://hooks.example.com/a"))
    assert (plan.rate, plan.rules.strict, plan.timeout_s) == (50, True, 15)

    assert [key.until_ms is None for key in eval(rotation, {"HttpOptions": HttpOptions}).keys] == [True, False]

    assert plan.signer is not None
    signed = Signer(names["rebound"].settings.http_destinations.of("https://hooks.example.com/a").keys)
    names = {"body": b"{}", "headers": signed.headers("m", b"{}", SYSTEM_CLOCK.now_ms())}
    exec(receiver, names)
    assert names["payload"] == {}

    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))
    rebound.endpoints.disable("https://b.example/hook")
    exec(endpoints, {"rebound": rebound})
    assert "https://b.example/hook None" in capsys.readouterr().out
    assert [endpoint.url for endpoint in rebound.endpoints] == ["https://b.example/hook"]


def test_every_option_is_in_the_table_of_the_page() -> None:
    rows = "\n".join(line for line in PAGE.read_text().splitlines() if line.startswith("| `"))

    for name in HttpOptions.__dataclass_fields__:
        assert f"`{name}`" in rows, name
