"""Measures how fast retries are stored: the measurements of `benchmarks.scheduling`, as rows."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import scheduling
from benchmarks.scheduling_ways import COUNTDOWN_S, PEERS, REBOUND_QUEUE, peer_ways, plain_way, rebound_ways, zadd_way
from tests.processes import ROOT

from . import load
from .bench import Bench
from .rows import Row, median, paired

_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class _Measured:
    """The figures of each way in each round: calls a second, and microseconds of processor time a call."""

    rates: dict[str, list[float]]
    costs: dict[str, list[float]]
    size: dict[str, Any]

    def rate_row(self, name: str, ours: str, base: str, **row: Any) -> Row:
        """Return a row of the rates of two ways."""
        cpu_us = median(self.costs[ours], 1)
        pair = paired(self.rates[ours], self.rates[base])
        return Row(
            name=name,
            **pair,
            **core_limit(cpu_us, pair["value"]),
            figures={"cpu_us": cpu_us},
            size=self.size,
            **row,
        )

    def cost_row(self, name: str, ours: str, figures: dict[str, Any]) -> Row:
        """Return a row of the processor time of a call beside that of a bare ZADD."""
        pair = paired(self.costs[ours], self.costs["zadd"], digits=1)
        figures = {"per_s": median(self.rates[ours]), **figures}
        zadd_us = pair["peer_value"]
        limit = f"{zadd_us:g} us of them are what redis-py takes for a ZADD"
        return Row(name=name, **pair, peer="bare ZADD", figures=figures, limit=limit, best=zadd_us, size=self.size)


def core_limit(cpu_us: float, rate: float) -> dict[str, Any]:
    """Return `limit` and `best` of a row, from the rate of one process with a whole core.

    The result is empty if the row's rate is higher: in a very short run, most processor time belongs to the start.
    """
    most = _MICROSECONDS / cpu_us
    if most < rate:
        return {}
    return {"limit": f"{cpu_us:g} us of processor time for each in one process: {most:,.0f}/s at most", "best": most}


def scheduling_rows(bench: Bench) -> Iterator[Row]:
    """Measure the calls of users and of the consumer beside plain `apply_async`, a bare ZADD and other libraries."""
    calls, rounds = bench.count(1000, 2000, least=40), bench.quick_rounds
    arguments: dict[str, Any] = {
        "destination": "kafka://orders",
        "value": load.random_hex(),
        "key": b"key-1",
        "base_delay": COUNTDOWN_S,
        "max_retries": 3,
    }
    with bench.redis() as url, load.open_redis(url) as client:
        rebound, ways = rebound_ways(url, arguments, events=False)
        _, loud = rebound_ways(url, arguments, events=True)
        rebound.schedule_retry(**arguments)
        stored = scheduling.longest_entry(client, REBOUND_QUEUE)
        ways = {
            "plain": plain_way(url, arguments, events=False),
            "zadd": zadd_way(client, stored),
            **ways,
            "schedule_retry, events": loud["schedule_retry"],
            **peer_ways(url, arguments),
        }
        rates, costs = scheduling.measure(ways, client, rounds, calls)
    measured = _Measured(rates, costs, {"calls": calls, "rounds": rounds})
    yield measured.rate_row("schedule_retries", "schedule_retries", "plain")
    yield measured.rate_row("consumer_store", "store", "plain")
    yield measured.cost_row(
        "schedule_retry",
        "schedule_retry",
        {
            "rate_of_zadd": _ratio(rates, "schedule_retry", "zadd"),
            "rate_of_stock": _ratio(rates, "schedule_retry", "plain"),
            "stock_cpu_us": median(costs["plain"], 1),
            "stored_bytes": len(stored),
        },
    )
    yield measured.cost_row("schedule_retry_event", "schedule_retry, events", {})
    for peer in PEERS:
        name = f"beside_{peer}"
        if peer in ways:
            yield measured.rate_row(name, "schedule_retry", peer, peer=peer)
        else:
            yield Row(name=name, peer=peer, skipped=f"{peer} is not installed")
    yield measured.rate_row("threads", "eight threads", "schedule_retry", peer="one thread")


def _ratio(rates: dict[str, list[float]], ours: str, peer: str) -> float:
    return round(statistics.median(a / b for a, b in zip(rates[ours], rates[peer], strict=True)), 2)


def consumer(bench: Bench) -> Iterator[Row]:
    """Measure the consumer of `benchmarks/consumer_benchmark.py` on a full topic, with a handler that always fails."""
    count, rounds = bench.count(20_000, 100_000, least=200), bench.rounds
    runs = [_consume(bench, count) for _ in range(rounds)]
    cpu_us = median([run["cpu_us_per_record"] for run in runs])
    pair = paired([run["records_per_s"] for run in runs], [run["bare_poll_per_s"] for run in runs])
    yield Row(
        name="consumer",
        **pair,
        peer="kafka-python that only reads",
        figures={"cpu_us": cpu_us, "peak_rss_mb": median([run["peak_rss_mb"] for run in runs], 1)},
        **core_limit(cpu_us, pair["value"]),
        size={"records": count, "rounds": rounds},
    )


def _consume(bench: Bench, count: int) -> dict[str, Any]:
    flags = [f"--prefill={count}", "--failure-rate=1", "--handler-ms=0", "--no-worker", "--json"]
    with contextlib.ExitStack() as stack:
        if bench.is_embedded:
            # It starts its own servers, because it has the settings for a quick join on the embedded broker.
            flags.append("--embedded")
        else:
            url = stack.enter_context(bench.redis())
            flags += [f"--kafka={bench.kafka}", f"--redis={url.removeprefix('redis://').removesuffix('/0')}"]
        done = subprocess.run(
            [sys.executable, "benchmarks/consumer_benchmark.py", *flags],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(f"the consumer benchmark ended with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["first_pass_retried"] == count, f"{result['first_pass_retried']} of {count} were stored"
    bench.progress(f"  {result['records_per_s']}/s, {result['cpu_us_per_record']} us")
    return result
