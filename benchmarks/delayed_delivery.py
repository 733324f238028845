"""Measures delayed delivery beside stock Celery and other libraries, and prints a table with its goals.

    python benchmarks/delayed_delivery.py                        the short run, a few minutes on two cores
    python benchmarks/delayed_delivery.py --full                 the sizes of the goals: a million waiting; takes long
    python benchmarks/delayed_delivery.py --only kafka,idle      some rows
    python benchmarks/delayed_delivery.py --json                 one JSON object a row, as soon as it is measured
    python benchmarks/delayed_delivery.py --kafka localhost:9092 your Kafka in place of the embedded broker
    python benchmarks/delayed_delivery.py --against ../before    the same rows in another checkout, and the ratio

Each worker and each Redis server is a separate process, and all of them are ended. The compared ways take turns in the
same run, and figures are medians over rounds. Figures depend on the machine and its other load, so compare the ratios.
Progress goes to stderr. The program needs Linux's /proc. dramatiq, huey and confluent-kafka are measured if they are
installed.

The exit status is 1 if a row could not be measured; a missed goal does not change it.

Keys of a JSON line:

    name           the row, as in --only
    title, unit    the meaning of `value`, and its unit
    value          the figure; null if the row was skipped
    peer           the compared software: "stock Celery", "bare ZADD", "dramatiq" ...
    peer_value     the peer's figure of the same run, or null
    ratio          value / peer_value, the median over the rounds, or null
    goal           the goal in words
    limits         the goal as bounds, each {"figure", "direction" (">=" or "<="), "bound"}; "figure" is "value",
                   "ratio" or a key of `figures`
    met            whether this run met all limits; null if the row was skipped
    why            the known reason for a missed goal, or the reason why the row was skipped; else empty
    against_value  the value of the other checkout, or null
    against_ratio  value / against_value, or null
    figures        further measured figures
    size           the number of messages, and the number of rounds
    load_average   the machine's load average when the row was measured
"""

from __future__ import annotations

import argparse
import base64
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.delayed_delivery_parts.against import OtherCheckout, OtherCheckoutError
from benchmarks.delayed_delivery_parts.bench import KAFKA_CLIENTS, Bench
from benchmarks.delayed_delivery_parts.goals import GOALS
from benchmarks.delayed_delivery_parts.lateness import countdown_lateness, retry_lateness, starvation
from benchmarks.delayed_delivery_parts.operators import operators
from benchmarks.delayed_delivery_parts.ordering import ordering
from benchmarks.delayed_delivery_parts.outage import breaker, outage
from benchmarks.delayed_delivery_parts.redis_cost import claim, idle, redis_memory, redis_time
from benchmarks.delayed_delivery_parts.rows import Row
from benchmarks.delayed_delivery_parts.sharing import lanes, workers
from benchmarks.delayed_delivery_parts.storing import consumer, scheduling_rows
from benchmarks.delayed_delivery_parts.table import print_table
from benchmarks.delayed_delivery_parts.throughput import kafka, kafka_events, noop_tasks_and_deliveries
from benchmarks.delayed_delivery_parts.waiting import worker_memory_and_warm_stop
from rebound_celery.config import parse_brokers


@dataclass(frozen=True)
class Measurement:
    """A measurement, and the rows that it gives."""

    rows: tuple[str, ...]
    run: Callable[[Bench], Iterable[Row]]


_CALLS = ("schedule_retries", "consumer_store", "schedule_retry", "schedule_retry_event")
MEASUREMENTS = (
    Measurement((*_CALLS, "beside_dramatiq", "beside_huey", "threads"), scheduling_rows),
    Measurement(("consumer",), consumer),
    Measurement(("kafka", "kafka_confluent"), kafka),
    Measurement(("kafka_events",), kafka_events),
    Measurement(("noop_deliveries", "noop_tasks"), noop_tasks_and_deliveries),
    Measurement(("retry_lateness",), retry_lateness),
    Measurement(("countdown_lateness",), countdown_lateness),
    Measurement(("starvation",), starvation),
    Measurement(("lanes",), lanes),
    Measurement(("breaker",), breaker),
    Measurement(("outage",), outage),
    Measurement(("ordering",), ordering),
    Measurement(("workers",), workers),
    Measurement(("redis_memory",), redis_memory),
    Measurement(("redis_enqueue", "redis_claim", "redis_settle"), redis_time),
    Measurement(("claim",), claim),
    Measurement(("idle",), idle),
    Measurement(("worker_memory", "warm_stop"), worker_memory_and_warm_stop),
    Measurement(("pending_page", "pending_filter"), operators),
)
NAMES = list(GOALS)


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


def parse_rounds(text: str) -> int:
    rounds = int(text)
    if not 1 <= rounds <= 100:
        raise ValueError(text)
    return rounds


def parse_kafka(text: str) -> str:
    return ",".join(parse_brokers(text))


def parse_directory(text: str) -> Path:
    directory = Path(text).resolve()
    if not (directory / "benchmarks" / "delayed_delivery.py").is_file():
        raise argparse.ArgumentTypeError(f"{text!r} has no benchmarks/delayed_delivery.py")
    return directory


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object a row in place of the table")
    add("--full", action="store_true", help="the sizes of the goals")
    add("--only", type=parse_names, default=NAMES, metavar="NAME[,NAME]", help=", ".join(NAMES))
    add("--size", type=parse_factor, default=1.0, metavar="FACTOR", help="multiply every size, as in 0.1")
    help_text = "how often each pair runs; default: 1 (3 with --full), and 5 (7) where no worker is started"
    add("--rounds", type=parse_rounds, metavar="N", help=help_text)
    servers = parser.add_mutually_exclusive_group()
    servers.add_argument("--kafka", type=parse_kafka, metavar="HOST:PORT", help="a Kafka that runs; default: embedded")
    servers.add_argument("--apache", action="store_true", help="start Apache Kafka (needs Java and Maven)")
    help_text = "the only client library of the Kafka rows; default: each that is installed"
    add("--kafka-client", choices=list(KAFKA_CLIENTS), help=help_text)
    add("--encrypt", action="store_true", help="encrypt what waits in Redis; the other checkout does not")
    add("--against", type=parse_directory, metavar="DIR", help="another checkout to compare with")
    add("--against-python", default=sys.executable, metavar="PYTHON", help="the Python for it; default: this one")
    return parser


def open_other(options: argparse.Namespace, progress: Callable[[str], None]) -> OtherCheckout | None:
    """Return the checkout to compare with, with this run's options; None without `--against`.

    Raises:
        OtherCheckoutError: if its benchmark does not run.
    """
    if options.against is None:
        return None
    given = {
        "--size": options.size,
        "--rounds": options.rounds,
        "--kafka": options.kafka,
        "--kafka-client": options.kafka_client,
    }
    switches = {"--full": options.full, "--apache": options.apache}
    values = [f"{name}={value}" for name, value in given.items() if value is not None]
    values += [name for name, is_on in switches.items() if is_on]
    return OtherCheckout(options.against, options.against_python, values, progress)


def run(bench: Bench, measurement: Measurement, other: OtherCheckout | None) -> Iterator[Row]:
    """Measure, and add the values of the same rows in the other checkout."""
    rows = [row for row in measurement.run(bench) if row.name in bench.wanted]
    there = other.values([row.name for row in rows if not row.skipped]) if other and rows else {}
    for row in rows:
        yield replace(row, load=os.getloadavg()[0], against=there.get(row.name))


def describe(rows: Sequence[Row], options: argparse.Namespace, load_before: str) -> list[str]:
    """Return the lines about the machine and the versions with which the rows were measured."""
    server = options.kafka or ("Apache Kafka" if options.apache else "the embedded Kafka")
    extent = "the sizes of the goals" if options.full else "the short run; --full takes the sizes of the goals"
    heading = [
        f"Python {platform.python_version()}, {os.cpu_count()} processors, {server}; {extent}.",
        f"Load average {load_before} before, {load_average()} after. Other programs' load makes every figure worse.",
    ]
    if options.size != 1:
        heading.append(f"All sizes times {options.size:g}.")
    return [*heading, ""] if rows else []


def load_average() -> str:
    return f"{os.getloadavg()[0]:.1f}"


def main(argv: list[str] | None = None) -> int:
    options = make_parser().parse_args(argv)
    failed = False
    rows: list[Row] = []
    load_before = load_average()
    if options.encrypt:
        # This program and its workers read it.
        os.environ["REBOUND_ENCRYPTION_KEYS"] = "k1:" + base64.b64encode(os.urandom(32)).decode()
    with Bench(
        wanted=options.only,
        full=options.full,
        factor=options.size,
        rounds=options.rounds,
        kafka=options.kafka,
        apache=options.apache,
        kafka_client=options.kafka_client,
    ) as bench:
        try:
            other = open_other(options, bench.progress)
        except OtherCheckoutError as error:
            print(error, file=sys.stderr)
            return 1
        try:
            for measurement in MEASUREMENTS:
                wanted = [name for name in measurement.rows if name in bench.wanted]
                if not wanted:
                    continue
                began = time.monotonic()
                bench.progress(f"{', '.join(wanted)} ...")
                try:
                    for row in run(bench, measurement, other):
                        rows.append(row)
                        if options.json:
                            print(row.to_json(), flush=True)
                except Exception as error:
                    # The other rows can still be measured.
                    failed = True
                    bench.progress(f"  could not be measured: {type(error).__name__}: {error}")
                    bench.progress("\n".join(getattr(error, "__notes__", ())))
                bench.progress(f"  took {time.monotonic() - began:.0f} s")
        finally:
            # After Ctrl-C, the rows so far are printed.
            if rows and not options.json:
                rows.sort(key=lambda row: NAMES.index(row.name))
                against = f"to\n{options.against.name}" if options.against else ""
                print_table(rows, heading=describe(rows, options, load_before), against=against)
    return int(failed)


def leave(number: int, _frame: object) -> None:
    """End with an exception, so that servers and workers are stopped."""
    sys.exit(128 + number)


if __name__ == "__main__":
    # The caller's settings must not change this program and its workers.
    for variable in [name for name in os.environ if name.startswith(("REBOUND_", "CELERY_"))]:
        del os.environ[variable]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
    sys.exit(main())
