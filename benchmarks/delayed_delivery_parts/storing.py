"""How fast retries are stored: `benchmarks.scheduling`'s measurements, as rows."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import scheduling

from . import load
from .bench import Bench, Row


def scheduling_rows(bench: Bench) -> Iterator[Row]:
    """`schedule_retry` beside a bare ZADD and plain `apply_async`, and the two ways to store many at once."""
    calls, rounds = bench.count(1000, 2000, least=50), 7 if bench.full else 3
    arguments = {
        "destination": "kafka://orders",
        "value": load.random_hex(),
        "key": b"key-1",
        "base_delay": scheduling.COUNTDOWN_S,
        "max_retries": 3,
    }
    with bench.redis() as url, load.open_redis(url) as client:
        rebound, ways = scheduling.rebound_ways(url, arguments, events=False)
        rebound.schedule_retry(**arguments)
        stored = scheduling.longest_entry(client, scheduling.REBOUND_QUEUE)
        plain = scheduling.plain_way(url, arguments, events=False)
        ways = {"plain": plain, "zadd": scheduling.zadd_way(client, stored), **ways}
        rates, costs = scheduling.measure(ways, client, rounds, calls)
    per_s = {name: round(sorted(values)[len(values) // 2]) for name, values in rates.items()}
    cpu_us = {name: round(sorted(values)[len(values) // 2]) for name, values in costs.items()}
    size = {"calls": calls, "rounds": rounds}
    bulk = {name: per_s[name] for name in ("schedule_retries", "store")}
    yield Row(
        name="schedule_retries",
        value=min(bulk.values()),
        unit="retries/s, the slower of both ways",
        stock=per_s["plain"],
        ratio=round(min(bulk.values()) / per_s["plain"], 2),
        goal="30,000/s in one process, `schedule_retries` and the consumer's `store`",
        met=min(bulk.values()) >= 30_000,
        figures={**bulk, "cpu_us": {name: cpu_us[name] for name in bulk}},
        size=size,
    )
    to_zadd = per_s["schedule_retry"] / per_s["zadd"]
    yield Row(
        name="schedule_retry",
        value=round(to_zadd, 2),
        unit="of a bare ZADD's rate",
        stock=round(per_s["plain"] / per_s["zadd"], 2),
        ratio=round(per_s["schedule_retry"] / per_s["plain"], 2),
        goal="75 % of a bare ZADD of the same bytes",
        met=to_zadd >= 0.75,
        figures={
            "per_s": {name: per_s[name] for name in ("schedule_retry", "zadd", "plain")},
            "cpu_us": {name: cpu_us[name] for name in ("schedule_retry", "zadd", "plain")},
            "stored_bytes": len(stored),
        },
        size=size,
    )
