"""Delayed delivery measured beside stock Celery, row by row of its table of goals; one JSON line a row on stdout.

    python -m benchmarks.delayed_delivery                        the short form, under two minutes on two cores
    python -m benchmarks.delayed_delivery --full                 the sizes of the goals: a million waiting, and rounds
    python -m benchmarks.delayed_delivery --only kafka,idle      some rows
    python -m benchmarks.delayed_delivery --apache               on Apache Kafka, in place of the embedded broker

Every row says what was measured (`value` in `unit`, more in `figures`), what stock Celery does in the same run where
that means something (`stock`, and `ratio` of the two), the goal, and whether this run met it. Workers are processes of
their own, as is each Redis server; nothing of them is left. The status is 1 if something could not be measured, and
not if a goal was missed. Figures are for this machine and what else runs on it: compare ratios. It needs Linux's /proc.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.delayed_delivery_parts.bench import Bench, Row
from benchmarks.delayed_delivery_parts.lateness import countdown_lateness, retry_lateness, starvation
from benchmarks.delayed_delivery_parts.redis_cost import claim, idle, redis_memory
from benchmarks.delayed_delivery_parts.storing import scheduling_rows
from benchmarks.delayed_delivery_parts.throughput import (
    kafka,
    kafka_confluent,
    kafka_events,
    noop_tasks_and_deliveries,
    workers,
)
from benchmarks.delayed_delivery_parts.waiting import worker_memory_and_warm_stop
from rebound_celery.config import parse_brokers


@dataclass(frozen=True)
class Measurement:
    """What is measured in one go, and the rows that come of it."""

    rows: tuple[str, ...]
    run: Callable[[Bench], Iterable[Row]]


MEASUREMENTS = (
    Measurement(("kafka",), kafka),
    Measurement(("kafka_confluent",), kafka_confluent),
    Measurement(("kafka_events",), kafka_events),
    Measurement(("noop_tasks", "noop_deliveries"), noop_tasks_and_deliveries),
    Measurement(("retry_lateness",), retry_lateness),
    Measurement(("countdown_lateness",), countdown_lateness),
    Measurement(("starvation",), starvation),
    Measurement(("worker_memory", "warm_stop"), worker_memory_and_warm_stop),
    Measurement(("schedule_retries", "schedule_retry"), scheduling_rows),
    Measurement(("redis_memory",), redis_memory),
    Measurement(("claim",), claim),
    Measurement(("idle",), idle),
    Measurement(("workers",), workers),
)
NAMES = [name for measurement in MEASUREMENTS for name in measurement.rows]


def parse_names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"there is no {sorted(unknown)[0]!r}; there are {', '.join(NAMES)}")
    return names


def parse_factor(text: str) -> float:
    factor = float(text)
    if not 0 < factor <= 100:
        raise ValueError(text)
    return factor


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes that the goals speak of; takes many minutes")
    parser.add_argument("--only", type=parse_names, default=NAMES, metavar="NAME[,NAME]", help=", ".join(NAMES))
    parser.add_argument("--size", type=parse_factor, default=1.0, metavar="FACTOR", help="times every size, as in 0.1")
    kafka_server = parser.add_mutually_exclusive_group()
    kafka_server.add_argument("--kafka", metavar="HOST:PORT", help="a Kafka that runs; default: an embedded one")
    kafka_server.add_argument("--apache", action="store_true", help="start Apache Kafka (needs Java and Maven)")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = make_parser().parse_args(argv)
    brokers = ",".join(parse_brokers(options.kafka)) if options.kafka else None
    failed = False
    busy = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"{os.cpu_count()} processors, load average {busy} before the start", file=sys.stderr)
    with Bench(full=options.full, factor=options.size, kafka=brokers, apache=options.apache) as bench:
        for measurement in MEASUREMENTS:
            if not set(measurement.rows) & set(options.only):
                continue
            began = time.monotonic()
            bench.progress(f"{', '.join(measurement.rows)} ...")
            try:
                for row in measurement.run(bench):
                    if row.name in options.only:
                        print(row.to_json(), flush=True)
            except Exception as error:
                # The other rows are worth having.
                failed = True
                bench.progress(f"  could not be measured: {type(error).__name__}: {error}")
                bench.progress("\n".join(getattr(error, "__notes__", ())))
            bench.progress(f"  took {time.monotonic() - began:.0f} s")
    return int(failed)


def leave(number: int, _frame: object) -> None:
    """End as on an error, so that servers and workers are stopped."""
    sys.exit(128 + number)


if __name__ == "__main__":
    # Only what this program is told decides, also in the workers that it starts.
    for variable in [name for name in os.environ if name.startswith(("REBOUND_", "CELERY_"))]:
        del os.environ[variable]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    sys.exit(main())
