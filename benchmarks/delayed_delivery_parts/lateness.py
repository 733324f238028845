"""How long after its due time something is done: retries, ordinary countdowns, and those beside a full queue."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

from . import load
from .apps import make_app
from .bench import Bench, Row
from .notes import read_notes
from .throughput import REBOUND_WORKER

RETRIES_PER_S = 1000
COUNTDOWNS_PER_S = 500

#: Seconds until the first is due, beside what storing all of them takes on a slow day.
LEAD_S = 1.0
STORED_PER_S = 4000
PUBLISHED_PER_S = 1500

#: Retries that a worker has delivered before: the first ones wait for its connections to Kafka.
WARM_UP = 20

ORDINARY_S = 0.02
DUE = 20

#: Milliseconds that record timestamps and due times are cut to.
_ROUNDING_MS = 1.0


def spread(values_ms: Sequence[float]) -> dict[str, float]:
    """The quantiles that goals speak of."""
    ordered = sorted(values_ms)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1), "min_ms": at(0)}


def retry_lateness(bench: Bench) -> Iterator[Row]:
    """Retries to Kafka, 1,000 due a second: the time from due to confirmed, and no record made before it was due."""
    count = bench.count(3000, 30_000, least=200)
    topic = bench.new_topic()
    notes = bench.directory / "retries"
    with bench.redis() as url, load.open_redis(url) as client:
        app = make_app(url, "rebound", kafka=bench.kafka)
        with bench.worker("rebound-timed", url, *REBOUND_WORKER, kafka=bench.kafka, notes=notes):
            warm_up = [load.retry(app, topic, b"%d" % load.now_ms(), load.now_ms()) for _ in range(WARM_UP)]
            load.store_retries(app, warm_up)
            load.wait_until_empty(client, 30)
            begin_ms = load.now_ms() + round(1000 * (LEAD_S + count / STORED_PER_S))
            dues = [begin_ms + number * 1000 // RETRIES_PER_S for number in range(count)]
            load.store_retries(app, [load.retry(app, topic, b"%d" % due, due) for due in dues])
            assert load.now_ms() < begin_ms, "storing them took longer than planned"
            load.wait_until_empty(client, 60 + count / RETRIES_PER_S)
    confirmed = read_notes(notes)
    records = load.read_topic(bench.kafka, topic, count + WARM_UP)
    delivered = load.times_delivered(records)
    late = spread([(at - due) * 1000 for due, at in confirmed if due * 1000 >= begin_ms])
    first = max((at - due) * 1000 for due, at in confirmed if due * 1000 < begin_ms)
    handed_over = min(record.timestamp - int(record.value) for record in records)
    yield Row(
        name="retry_lateness",
        value=late["p50_ms"],
        unit="ms, p50",
        goal="p50 15 ms, p99 50 ms, never early",
        met=late["p50_ms"] <= 15 and late["p99_ms"] <= 50 and handed_over >= 0 and len(records) >= count,
        figures={**late, "earliest_record_ms": handed_over, "first_connect_ms": round(first), **delivered},
        size={"retries": count, "per_s": RETRIES_PER_S},
    )


def countdown_lateness(bench: Bench) -> Iterator[Row]:
    """Ordinary tasks with a countdown, 500 due a second."""
    count = bench.count(1000, 15_000, least=100)
    ours, stock = (spread(_countdowns(bench, kind, count)) for kind in ("rebound", "stock"))
    yield Row(
        name="countdown_lateness",
        value=ours["p50_ms"],
        unit="ms, p50",
        stock=stock["p50_ms"],
        ratio=_ratio(ours["p50_ms"], stock["p50_ms"]),
        goal="p50 5 ms, p99 40 ms, never early",
        met=ours["p50_ms"] <= 5 and ours["p99_ms"] <= 40 and ours["min_ms"] >= -_ROUNDING_MS,
        figures={**ours, "stock": stock},
        size={"tasks": count, "per_s": COUNTDOWNS_PER_S},
    )


def _countdowns(bench: Bench, kind: str, count: int) -> list[float]:
    """The lateness of each task in milliseconds; a stock worker has all of them in its memory before they are due."""
    notes = bench.directory / f"countdowns-{kind}"
    with bench.redis() as url, bench.worker(kind, url, "-P", "prefork", "-c", "2", notes=notes):
        begin = time.time() + LEAD_S + count / PUBLISHED_PER_S
        _tell(make_app(url, kind), [begin + number / COUNTDOWNS_PER_S for number in range(count)])
        assert time.time() < begin, "publishing them took longer than planned"
        wait_until(lambda: len(read_notes(notes)) >= count, timeout=60 + count / COUNTDOWNS_PER_S)
    return _late_ms(notes)


def starvation(bench: Bench) -> Iterator[Row]:
    """A queue full of ordinary tasks of 20 ms, and 20 tasks that fall due beside them."""
    ordinary = bench.count(300, 600, least=60)
    ours, stock = (spread(_beside(bench, kind, ordinary)) for kind in ("rebound", "stock"))
    later = {name: round(ours[name] - stock[name], 1) for name in ("p50_ms", "max_ms")}
    yield Row(
        name="starvation",
        value=ours["p50_ms"],
        unit="ms, p50",
        stock=stock["p50_ms"],
        ratio=_ratio(ours["p50_ms"], stock["p50_ms"]),
        goal="at most 50 ms later than with stock (here: median and worst)",
        met=max(later.values()) <= 50,
        figures={**ours, "stock": stock, "later_than_stock": later},
        size={"ordinary_tasks": ordinary, "due_tasks": DUE},
    )


def _beside(bench: Bench, kind: str, ordinary: int) -> list[float]:
    notes = bench.directory / f"beside-{kind}"
    with bench.redis() as url, load.open_redis(url) as client:
        app = make_app(url, kind)
        # The worker has work from here on until `ordinary * ORDINARY_S / 2`; they fall due in the middle of it.
        busy_s = ordinary * ORDINARY_S / 2
        with bench.worker(kind, url, "-P", "prefork", "-c", "2", notes=notes):
            lead = 0.2 * busy_s + ordinary / PUBLISHED_PER_S
            begin = time.time() + lead
            _tell(app, [begin + number * 0.6 * busy_s / DUE for number in range(DUE)])
            load.publish(app, "nap", [(ORDINARY_S,)] * ordinary)
            assert client.llen(load.QUEUE) > 0, "the queue was empty before anything was due"
            load.wait_until_empty(client, 60 + 4 * busy_s)
            wait_until(lambda: len(read_notes(notes)) >= DUE, timeout=10)
    return _late_ms(notes)


def _tell(app: Any, dues: Sequence[float]) -> None:
    """Tasks that note when they ran, each due at its time."""
    task = app.tasks["tell"]
    with app.producer_pool.acquire(block=True) as producer, producer.batch():
        for due in dues:
            task.apply_async((due,), eta=datetime.fromtimestamp(due, UTC), producer=producer)


def _late_ms(notes: Path) -> list[float]:
    return [(at - due) * 1000 for due, at in read_notes(notes)]


def _ratio(ours: float, stock: float) -> float | None:
    return round(ours / stock, 2) if stock > 0 else None
