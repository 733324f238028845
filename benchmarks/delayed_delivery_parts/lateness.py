"""Measures the lateness of retries, of ordinary countdowns, and of countdowns beside a full queue."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

from . import load
from .apps import make_app
from .bench import Bench
from .notes import read_notes
from .rows import Row, median_figures, paired
from .throughput import REBOUND_WORKER

RETRIES_PER_S = 1000
COUNTDOWNS_PER_S = 500

#: The time until the first one is due, in seconds, without the time that storing all of them takes on a slow machine.
LEAD_S = 1.0
STORED_PER_S = 2500
PUBLISHED_PER_S = 1500
PUBLISHED_PER_S_AT_LEAST = 400

#: The number of retries for the warm-up. The first retries of a worker wait for its connections to Kafka.
WARM_UP = 20

ORDINARY_S = 0.02
DUE = 20


def spread(values_ms: Sequence[float]) -> dict[str, float]:
    """Return the quantiles for the goals."""
    ordered = sorted(values_ms)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1), "min_ms": at(0)}


def retry_lateness(bench: Bench) -> Iterator[Row]:
    """Measure retries to Kafka, 1,000 due a second: the time from due to confirmed. No record may be early."""
    count = bench.count(3000, 30_000, least=200)
    runs = [_retries(bench, count) for _ in range(bench.rounds)]
    figures = median_figures(runs)
    yield Row(
        name="retry_lateness",
        value=figures["p50_ms"],
        # In no round may a record be early, or too few records be delivered.
        figures={**figures, "earliest_record_ms": min(run["earliest_record_ms"] for run in runs)},
        size={"retries": count, "per_s": RETRIES_PER_S, "rounds": bench.rounds},
    )


def _retries(bench: Bench, count: int) -> dict[str, float]:
    """Return the lateness of the retries of one run, and its further figures."""
    topic = bench.new_topic()
    notes = bench.new_notes()
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
    assert len(records) >= count + WARM_UP, f"{len(records)} of {count + WARM_UP} records came"
    return {**late, "earliest_record_ms": handed_over, "first_connect_ms": round(first), **delivered}


def countdown_lateness(bench: Bench) -> Iterator[Row]:
    """Measure ordinary tasks with a countdown, 500 due a second."""
    count = bench.count(1000, 15_000, least=100)
    done = bench.alternate(
        bench.rounds,
        ours=lambda: spread(_countdowns(bench, "rebound", count)),
        stock=lambda: spread(_countdowns(bench, "stock", count)),
    )
    yield Row(
        name="countdown_lateness",
        **paired(*_p50(done), digits=1),
        figures={**median_figures(done["ours"]), "stock": median_figures(done["stock"])},
        size={"tasks": count, "per_s": COUNTDOWNS_PER_S, "rounds": bench.rounds},
    )


def _countdowns(bench: Bench, kind: str, count: int) -> list[float]:
    """Return the lateness of each task in milliseconds. A stock worker has all tasks in memory before they are due."""
    notes = bench.new_notes()
    with bench.redis() as url, bench.worker(kind, url, "-P", "prefork", "-c", "2", notes=notes):
        begin = time.time() + LEAD_S + count / PUBLISHED_PER_S_AT_LEAST
        _tell(make_app(url, kind), [begin + number / COUNTDOWNS_PER_S for number in range(count)])
        assert time.time() < begin, "publishing them took longer than planned"
        wait_until(lambda: len(read_notes(notes)) >= count, timeout=60 + count / COUNTDOWNS_PER_S)
    return _late_ms(notes)


def starvation(bench: Bench) -> Iterator[Row]:
    """Measure 20 countdowns that become due while the queue is full of ordinary tasks of 20 ms."""
    ordinary = bench.count(300, 600, least=60)
    done = bench.alternate(
        bench.rounds,
        ours=lambda: spread(_beside(bench, "rebound", ordinary)),
        stock=lambda: spread(_beside(bench, "stock", ordinary)),
    )
    ours, stock = median_figures(done["ours"]), median_figures(done["stock"])
    later = {name: round(ours[f"{name}_ms"] - stock[f"{name}_ms"], 1) for name in ("p50", "max")}
    yield Row(
        name="starvation",
        **paired(*_p50(done), digits=1),
        figures={**ours, "stock": stock, **{f"{name}_later_ms": value for name, value in later.items()}},
        size={"ordinary_tasks": ordinary, "due_tasks": DUE, "rounds": bench.rounds},
    )


def _beside(bench: Bench, kind: str, ordinary: int) -> list[float]:
    notes = bench.new_notes()
    with bench.redis() as url, load.open_redis(url) as client:
        app = make_app(url, kind)
        # The worker has work until `ordinary * ORDINARY_S / 2` from now. The countdowns become due in the middle.
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
    """Send tasks that note their time, each with its due time."""
    task = app.tasks["tell"]
    with app.producer_pool.acquire(block=True) as producer, producer.batch():
        for due in dues:
            task.apply_async((due,), eta=datetime.fromtimestamp(due, UTC), producer=producer)


def _late_ms(notes: Path) -> list[float]:
    return [(at - due) * 1000 for due, at in read_notes(notes)]


def _p50(done: dict[str, list[dict[str, float]]]) -> tuple[list[float], list[float]]:
    """Return our medians and stock's medians, by round."""
    ours, stock = ([figures["p50_ms"] for figures in done[who]] for who in ("ours", "stock"))
    return ours, stock
