"""Measures the order of keys: a worker that drains retries, each of which has a key that waits behind it."""

from __future__ import annotations

from collections.abc import Iterator

from celery import Celery

from rebound_celery.registry import ChainChange

from . import load, rebound_app
from .bench import Bench
from .rows import Row, paired
from .throughput import REBOUND_WORKER, Fill, Way, drain

#: So many changes of chains go into one call.
_CALL = 250


def ordering(bench: Bench) -> Iterator[Row]:
    """Measure a worker's rate with retries that a consumer with `ordering="key"` stored, and with ordinary ones."""
    count = bench.count(30_000, 100_000)

    def rate(fill: Fill) -> float:
        return drain(bench, Way("rebound-nowhere", REBOUND_WORKER, fill, rebound_app.QUEUE), count).rate

    done = bench.alternate(
        bench.quick_rounds,
        on=lambda: rate(_store_heads),
        off=lambda: rate(lambda app, number: load.store_far_retries(app, "nowhere", number)),
    )
    yield Row(
        name="ordering",
        **paired(done["on"], done["off"], 0),
        peer="without an order",
        size={"retries": count, "rounds": bench.quick_rounds},
    )


def _store_heads(app: Celery, number: int) -> list[str]:
    """Store retries that are the heads of as many chains. Return the ids of their tasks."""
    due_ms = load.now_ms() + load.FAR_S * 1000
    messages = [load.retry(app, "nowhere", load.random_hex(), due_ms)[0] for _ in range(number)]
    changes = [
        ChainChange("wait", f"group/nowhere/0/{message.id}", place, message.attempt, message, due_ms)
        for place, message in enumerate(messages)
    ]
    for start in range(0, number, _CALL):
        app.rebound.chains.change(changes[start : start + _CALL])
    return [message.task_id for message in messages]
