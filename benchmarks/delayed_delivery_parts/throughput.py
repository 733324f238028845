"""How many due messages a worker gets through: to Kafka, to nowhere, and as tasks that do nothing."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery import Celery

from tests.processes import Process
from tests.waiting import wait_until

from . import load, rebound_app
from .apps import make_app
from .bench import Bench, Row
from .processes import cpu_s, machine_cpu_s

_QUIET = ("--without-mingle", "--without-gossip")

#: The pool in which each does most here, of prefork with 1 to 8 processes, 1 to 16 threads, and solo.
REBOUND_WORKER = ("-P", "prefork", "-c", "1", *_QUIET)
REBOUND_NOOP_WORKER = ("-P", "threads", "-c", "2", *_QUIET)
STOCK_WORKER = ("-P", "prefork", "-c", "4", *_QUIET)
STOCK_NOOP_WORKER = ("-P", "solo", *_QUIET)

#: `worker_prefetch_multiplier` of the workers that run a task for each message.
PREFETCH = 64

WARM_UP = 40

#: Puts so many messages, not due yet, into Redis and returns their ids.
Fill = Callable[[Celery, int], list[str]]


@dataclass(frozen=True)
class Way:
    """One way to get due messages done: a kind of app, its worker, and how its queue is filled."""

    kind: str
    worker: tuple[str, ...]
    fill: Fill
    queue: str = load.QUEUE
    events: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drained:
    """What a worker did: messages a second, from the moment they were due until the last one was settled, and the
    processor time that each cost, in microseconds: the worker's, Redis', and the whole machine's."""

    rate: float
    cpu_us: dict[str, int]


def drain(bench: Bench, way: Way, count: int, kafka: str = "") -> Drained:
    """Let one worker do so many messages that are due at once."""
    with bench.redis() as url, load.open_redis(url) as client:
        app = make_app(url, way.kind, kafka=kafka)

        def spent() -> dict[str, float]:
            redis = client.info("cpu")
            return {
                "worker": cpu_s(worker),
                "redis": redis["used_cpu_user"] + redis["used_cpu_sys"],
                "machine": machine_cpu_s(),
            }

        def run(number: int) -> Drained:
            ids = way.fill(app, number)
            before = spent()
            moment = load.bring_in(client) if way.kind == "stock" else load.fall_due(client, way.queue, ids)
            took = load.wait_until_empty(client, 60 + number / 100) - moment
            after = spent()
            return Drained(number / took, {name: round(1e6 * (after[name] - before[name]) / number) for name in after})

        with bench.worker(way.kind, url, *way.worker, kafka=kafka, events=way.events, **way.options) as worker:
            run(WARM_UP)  # connections, and what is made at first use
            drained = run(count)
    bench.progress(f"  {way.kind} {way.queue}: {count}, {drained.rate:.0f}/s, {drained.cpu_us} us")
    return drained


def noop_way(kind: str, queue: str) -> Way:
    def fill(app: Celery, count: int) -> list[str]:
        if kind == "stock":
            return load.publish(app, "noop", [()] * count, queue=load.ASIDE)
        return load.publish(app, "noop", [()] * count, queue=queue, countdown=load.FAR_S)

    worker = STOCK_NOOP_WORKER if kind == "stock" else REBOUND_NOOP_WORKER
    return Way(kind, worker, fill, queue, options={"prefetch": PREFETCH})


def noop_tasks_and_deliveries(bench: Bench) -> Iterator[Row]:
    """Tasks of the user's own that do nothing, and retries to a destination that takes everything at once.

    The tasks wait in the leased queue, and as ordinary countdowns; stock has them ready in its queue, and no countdown.
    """
    count, retries = bench.count(3000, 20_000), bench.count(15_000, 100_000)

    def rate(way: Way, number: int) -> float:
        return statistics.median(drain(bench, way, number).rate for _ in range(bench.rounds))

    stock = rate(noop_way("stock", load.QUEUE), count)
    leased = rate(noop_way("rebound", rebound_app.QUEUE), count)
    countdown = rate(noop_way("rebound", load.QUEUE), count)
    yield Row(
        name="noop_tasks",
        value=round(leased),
        unit="tasks/s",
        stock=round(stock),
        ratio=round(leased / stock, 2),
        goal="12,000/s",
        met=leased >= 12_000,
        figures={"leased_queue": round(leased), "countdown": round(countdown)},
        size={"tasks": count, "rounds": bench.rounds},
    )

    def fill(app: Celery, number: int) -> list[str]:
        return load.store_far_retries(app, "nowhere", number)

    delivered = rate(Way("rebound-nowhere", REBOUND_WORKER, fill, rebound_app.QUEUE), retries)
    yield Row(
        name="noop_deliveries",
        value=round(delivered),
        unit="retries/s",
        stock=round(stock),
        ratio=round(delivered / stock, 2),
        goal="12,000/s",
        met=delivered >= 12_000,
        size={"retries": retries, "stock_tasks": count, "rounds": bench.rounds},
    )


@dataclass(frozen=True)
class _KafkaGoal:
    """A row of deliveries to Kafka, and its goal: retries a second, and their ratio to stock's tasks."""

    name: str
    client: str
    per_s: int
    ratio: float = 0.0
    events: bool = False

    def __str__(self) -> str:
        return f"{self.per_s:,}/s" + (f", and {self.ratio:g} times stock" if self.ratio else "")


def kafka(bench: Bench) -> Iterator[Row]:
    """Retries to Kafka, each confirmed, beside a stock task each that does the same."""
    yield _kafka_row(bench, _KafkaGoal("kafka", "kafka-python", 12_000, 8.0))


def kafka_confluent(bench: Bench) -> Iterator[Row]:
    """The same with the other client library."""
    yield _kafka_row(bench, _KafkaGoal("kafka_confluent", "confluent", 16_000))


def kafka_events(bench: Bench) -> Iterator[Row]:
    """The same while the workers send task events."""
    yield _kafka_row(bench, _KafkaGoal("kafka_events", "confluent", 9_000, events=True))


def _kafka_row(bench: Bench, goal: _KafkaGoal) -> Row:
    count, plain_count = bench.count(15_000, 100_000), bench.count(1000, 20_000)
    rates: dict[str, list[float]] = {"rebound": [], "stock": []}
    costs: dict[str, dict[str, int]] = {}
    twice = stock_missing = 0
    for _ in range(bench.rounds):
        for kind, number in (("rebound", count), ("stock", plain_count)):
            topic = bench.new_topic()
            drained = drain(bench, _kafka_way(kind, topic, goal), number, bench.kafka)
            rates[kind].append(drained.rate)
            costs[kind] = drained.cpu_us
            delivered = load.times_delivered(load.read_topic(bench.kafka, topic, number + WARM_UP))
            missing = number + WARM_UP - (delivered["records"] - delivered["twice"])
            if kind == "rebound":
                assert missing == 0, f"records are lost: {delivered}"
                twice += delivered["twice"]
            else:
                # A stock task that fails is gone: it promises no more.
                stock_missing += missing
    ours, stock = statistics.median(rates["rebound"]), statistics.median(rates["stock"])
    return Row(
        name=goal.name,
        value=round(ours),
        unit="retries/s",
        stock=round(stock),
        ratio=round(ours / stock, 2),
        goal=str(goal),
        met=ours >= goal.per_s and ours / stock >= goal.ratio,
        figures={
            "client": goal.client,
            "delivered_twice": twice,
            "stock_missing": stock_missing,
            "cpu_us": costs["rebound"],
            "stock_cpu_us": costs["stock"],
            "cores": os.cpu_count(),
        },
        size={"retries": count, "stock_tasks": plain_count, "rounds": bench.rounds},
    )


def _kafka_way(kind: str, topic: str, goal: _KafkaGoal) -> Way:
    def fill_stock(app: Celery, count: int) -> list[str]:
        values = ((topic, load.random_hex().decode()) for _ in range(count))
        return load.publish(app, "deliver", values, queue=load.ASIDE)

    def fill(app: Celery, count: int) -> list[str]:
        return load.store_far_retries(app, topic, count)

    if kind == "stock":
        return Way(kind, STOCK_WORKER, fill_stock, events=goal.events, options={"prefetch": PREFETCH})
    return Way(kind, REBOUND_WORKER, fill, rebound_app.QUEUE, events=goal.events, options={"client": goal.client})


# Several workers

WORKERS = 4

#: A line that a worker logs at the end of each job of deliveries.
_JOB = re.compile(r"\[(\S+ \S+): DEBUG/.*\] a job of (\d+) deliveries took ([\d.]+) s")


def workers(bench: Bench) -> Iterator[Row]:
    """Four workers on one schedule: each message once, and no worker idle while others are behind."""
    count = bench.count(5000, 20_000, least=400)
    topic = bench.new_topic()
    with ExitStack() as stack:
        url = stack.enter_context(bench.redis())
        client = stack.enter_context(load.open_redis(url))
        app = make_app(url, "rebound", kafka=bench.kafka)
        options = ("-P", "threads", "-c", "1", "-l", "INFO")
        crew = [
            stack.enter_context(
                bench.worker("rebound", url, *options, "-n", f"w{number}@%h", kafka=bench.kafka, jobs=True)
            )
            for number in range(WORKERS)
        ]
        moment = load.fall_due(client, rebound_app.QUEUE, load.store_far_retries(app, topic, count))
        end = load.wait_until_empty(client, 60 + count / 100)
        # The last lines of their logs come a moment later.
        wait_until(lambda: sum(_share_and_gap(worker, moment, end)[0] for worker in crew) >= count, timeout=10)
        shares, gaps = zip(*(_share_and_gap(worker, moment, end) for worker in crew), strict=True)
    delivered = load.times_delivered(load.read_topic(bench.kafka, topic, count))
    once = delivered == {"records": count, "twice": 0}
    fair = count / WORKERS
    yield Row(
        name="workers",
        value=round(min(shares) / fair, 2),
        unit="smallest share, of a fair one",
        goal="each delivered once; no worker idle while others are behind (here: none below half of its share)",
        met=once and min(shares) >= fair / 2,
        figures={
            "shares": shares,
            "longest_idle_ms": [round(gap * 1000) for gap in gaps],
            "per_s": round(count / (end - moment)),
            **delivered,
        },
        size={"retries": count, "workers": WORKERS},
    )


def _share_and_gap(worker: Process, begin: float, end: float) -> tuple[int, float]:
    """How many messages a worker delivered, and the longest time that it did nothing while there was work."""
    jobs = []
    for stamp, number, took in _JOB.findall(worker.output):
        ended = datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()
        jobs.append((ended - float(took), ended, int(number)))
    gap, busy_until = 0.0, begin
    for began, ended, _ in sorted(jobs):
        gap, busy_until = max(gap, began - busy_until), max(busy_until, ended)
    return sum(number for *_, number in jobs), max(gap, end - busy_until)
