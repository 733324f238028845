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
        _, loud = scheduling.rebound_ways(url, arguments, events=True)
        rebound.schedule_retry(**arguments)
        stored = scheduling.longest_entry(client, scheduling.REBOUND_QUEUE)
        plain = scheduling.plain_way(url, arguments, events=False)
        ways = {
            "plain": plain,
            "zadd": scheduling.zadd_way(client, stored),
            **ways,
            "schedule_retry, events": loud["schedule_retry"],
        }
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
        goal="40,000/s in one process with `schedule_retries`, 45,000/s with the consumer's `store`",
        met=per_s["schedule_retries"] >= 40_000 and per_s["store"] >= 45_000,
        figures={**bulk, "cpu_us": {name: cpu_us[name] for name in bulk}},
        size=size,
    )
    one = ("schedule_retry", "schedule_retry, events", "zadd", "plain")
    threads = per_s["eight threads"] / per_s["schedule_retry"]
    yield Row(
        name="schedule_retry",
        value=cpu_us["schedule_retry"],
        unit="us of processor time a call",
        stock=cpu_us["plain"],
        ratio=round(per_s["schedule_retry"] / per_s["plain"], 2),
        goal="95 us of processor time, 130 us with the task-sent event; eight threads 3 times one",
        met=cpu_us["schedule_retry"] <= 95 and cpu_us["schedule_retry, events"] <= 130 and threads >= 3,
        figures={
            "per_s": {name: per_s[name] for name in one},
            "cpu_us": {name: cpu_us[name] for name in one},
            "eight_threads": round(threads, 2),
            "stored_bytes": len(stored),
        },
        size=size,
    )
