"""Measures what operators ask with many waiting: the first page, the counts, and a filter that reads everything.

The measured program is a process of its own, so that its memory is that of the questions alone:
`python -m benchmarks.delayed_delivery_parts.operators REDIS_URL` prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from celery import Celery
from prometheus_client import CollectorRegistry, generate_latest

from rebound_celery import Rebound
from rebound_celery.message import Message, Origin
from rebound_celery.message.address import KafkaAddress
from rebound_celery.metrics import register
from rebound_celery.policy import Failure, RetryPolicy
from rebound_celery.selection import Filter, Progress
from tests.processes import ROOT

from . import load
from .bench import Bench
from .rows import Row, median

_TOPICS = 10
#: How often each quick question is asked.
_TIMES = 15
#: The quick questions.
_QUICK = ("page_ms", "count_ms", "destination_ms", "get_ms", "stats_ms", "scrape_ms")
#: A command of this many microseconds is a long one.
_LONG_US = 10_000
_CHUNK = 5_000


def operators(bench: Bench) -> Iterator[Row]:
    """Measure the API of operators with many waiting retries."""
    count = bench.count(50_000, 1_000_000, least=1_000)
    with bench.redis() as url, load.open_redis(url) as client:
        _fill(url, count)
        memory_mb = client.info("memory")["used_memory"] / 1e6
        bench.progress(f"  {count} wait; Redis takes {memory_mb:.0f} MB")
        client.config_set("slowlog-log-slower-than", _LONG_US)
        client.slowlog_reset()
        before_s = _cpu_s(client)
        measured = _ask(url)
        redis_s = round(_cpu_s(client) - before_s, 2)
        long_commands = client.slowlog_len()
    size = {"waiting": count, "topics": _TOPICS}
    quick = {name: median(measured[name], 1) for name in _QUICK}
    bench.progress(f"  {quick}, filter {measured['filter_s']} s, {measured['peak_rss_mb']} MB")
    yield Row(
        name="pending_page",
        value=quick.pop("page_ms"),
        peer="",
        figures=quick,
        size={**size, "times": _TIMES},
    )
    assert measured["matched"] == count // 100, f"the filter found {measured['matched']} of {count // 100}"
    yield Row(
        name="pending_filter",
        value=measured["filter_s"],
        peer="",
        figures={
            "peak_rss_mb": measured["peak_rss_mb"],
            "cpu_s": measured["filter_cpu_s"],
            "redis_cpu_s": redis_s,
            "progress_reports": measured["reports"],
            "commands_above_10_ms": long_commands,
        },
        # The program waits for each answer of Redis.
        limit=f"{measured['filter_cpu_s']:g} s of processor time, and {redis_s:g} s of Redis",
        best=measured["filter_cpu_s"] + redis_s,
        size={**size, "matched": measured["matched"]},
    )


def _fill(url: str, count: int) -> None:
    """Store retries that differ as those of a consumer do. One of a hundred has failed with another error."""
    rebound = _rebound(url)
    policy, topics = RetryPolicy(3, 5), [KafkaAddress(f"orders-{number}") for number in range(_TOPICS)]
    now_ms = load.now_ms()

    def retry(number: int) -> Message:
        topic = topics[number % _TOPICS]
        error = "the shop is closed" if number % 100 == 7 else f"no answer within {number % 60} s"
        return Message(
            f"{number:08d}-5314-4782-99ca-855c2c1842c8",
            load.random_hex(),
            topic,
            2,
            policy,
            b"customer-%d" % (number % 5_000),
            (("tenant", b"acme"),),
            failure=Failure("shop.errors.ShopTimeout", error),
            group="shop",
            origin=Origin(topic.topic, number % 12, number, now_ms),
            first_failed_at=now_ms - number % 600_000,
        )

    due_ms = now_ms + load.FAR_S * 1000
    for start in range(0, count, _CHUNK):
        some = range(start, min(start + _CHUNK, count))
        rebound.store([(retry(number), due_ms + number) for number in some])
    rebound.close()


def _cpu_s(client: Any) -> float:
    """Return the processor time that Redis has used."""
    used = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def _ask(url: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", __name__, url], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the questions ended with {done.returncode}: {done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _rebound(url: str) -> Rebound:
    return Rebound(Celery("bench", broker=url, set_as_current=False))


def _measure(url: str) -> dict[str, Any]:
    rebound = _rebound(url)
    pending, registry = rebound.pending, CollectorRegistry()
    collector = register(rebound.app, registry=registry)
    one = pending.list(limit=1).entries[0].id
    questions: dict[str, Callable[[], object]] = {
        "page_ms": pending.list,
        "count_ms": pending.count,
        "destination_ms": lambda: pending.count("kafka://orders-3"),
        "get_ms": lambda: pending.get(one),
        "stats_ms": pending.stats,
        "scrape_ms": lambda: generate_latest(registry),
    }
    measured: dict[str, Any] = {name: [_time_ms(ask) for _ in range(_TIMES)] for name, ask in questions.items()}
    collector.close()
    reports: list[Progress] = []
    began, began_cpu = time.monotonic(), time.process_time()
    chosen = Filter(topic="orders-*", text="shop is CLOSED")
    matched = sum(1 for _ in pending.iterate(chosen, progress=reports.append))
    return {
        **measured,
        "matched": matched,
        "reports": len(reports),
        "filter_s": round(time.monotonic() - began, 2),
        "filter_cpu_s": round(time.process_time() - began_cpu, 2),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def _time_ms(ask: Callable[[], object]) -> float:
    began = time.monotonic()
    ask()
    return (time.monotonic() - began) * 1000


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1])))
