"""The page on traces: its snippets run, and its tables name what there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from celery import Celery
from opentelemetry.sdk.trace import TracerProvider

from rebound_celery import ConsumerConfig, Rebound, Record, RetryPolicy
from rebound_celery.testing import in_memory
from rebound_celery.tracing.attributes import of_failure
from tests.tracing import CONTEXT, id_of, linked, traced

PAGE = (Path(__file__).parents[2] / "docs" / "tracing.md").read_text("utf-8")
TURN_ON, HANDLER = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_snippets_make_the_spans_of_the_page() -> None:
    rebound = Rebound(Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False))
    errors = [ValueError("no price")]

    def pay(_value: bytes) -> None:
        if errors:
            raise errors.pop()

    names: dict[str, Any] = {"rebound": rebound, "pay": pay}
    with traced() as spans, in_memory(rebound.app) as memory:
        set_provider: list[TracerProvider] = []
        turn_on = TURN_ON.replace("trace.set_tracer_provider(provider)", "set_provider.append(provider)")
        exec(turn_on, names | {"set_provider": set_provider})
        exec("from opentelemetry import trace\n" + HANDLER, names)
        memory.consume(
            ConsumerConfig(topics="orders", group="g", handler=names["handle"], policy=RetryPolicy(base_delay=5))
        )
        memory.produce("orders", b"1", headers=CONTEXT)
        memory.advance(minutes=1)

    (provider,) = set_provider
    assert isinstance(provider, TracerProvider)
    provider.shutdown()
    tree = PAGE.partition("```text\n")[2].partition("```")[0]
    rebounds = [span for span in spans if span.name != "pay"]
    shown = re.findall(r"─ (\w+ \w+) ", tree)
    assert [span.name for span in rebounds][: len(shown)] == shown
    first, *_, last = [span for span in rebounds if span.name == "process orders"]
    assert linked(last) == [id_of(first)]
    assert first.status.description == "ValueError: no price"
    (post,) = memory.http.posts
    assert post.headers["traceparent"].split("-")[1] == CONTEXT["traceparent"].split("-")[1]


def test_the_table_of_attributes_is_that_of_the_code() -> None:
    """Those of a wait, of a post that fails, of a dead letter, and of a record without a value."""
    rebound = Rebound(Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False))

    def handle(record: Record) -> None:
        raise ValueError("no price")

    with traced() as spans, in_memory(rebound.app) as memory:
        memory.http.answer = lambda _: 500
        memory.consume(ConsumerConfig(topics="orders", group="g", handler=handle, policy=RetryPolicy(max_retries=0)))
        memory.produce("orders", None)
        rebound.schedule_retry("https://hooks.test/", b"", max_retries=0, delay=0)
        memory.run()
        found = {name for span in spans for name in span.attributes or {}} | set(of_failure("", 500))

    table = PAGE.partition("| attribute | value |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() if row for name in re.findall(r"`([\w.]+)`", row.split("|")[1])}
    assert named == found
