"""Measures a worker's rate of due messages: to Kafka, to no destination, and as tasks that do nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from celery import Celery

from . import load, rebound_app
from .apps import make_app
from .bench import KAFKA_CLIENTS, Bench
from .processes import cpu_s
from .rows import Row, median, median_figures, paired

_QUIET = ("--without-mingle", "--without-gossip")

#: The fastest pool of each here, out of prefork with 1 to 8 processes, 1 to 16 threads, and solo.
REBOUND_WORKER = ("-P", "prefork", "-c", "1", *_QUIET)
REBOUND_NOOP_WORKER = ("-P", "threads", "-c", "2", *_QUIET)
STOCK_WORKER = ("-P", "prefork", "-c", "4", *_QUIET)
STOCK_NOOP_WORKER = ("-P", "solo", *_QUIET)

#: `worker_prefetch_multiplier` of the workers that run a task for each message.
PREFETCH = 64

WARM_UP = 40

#: Stores a number of messages that are not due yet in Redis, and returns their ids.
Fill = Callable[[Celery, int], list[str]]


@dataclass(frozen=True)
class Way:
    """One way to process due messages: a kind of app, its worker, and the function that fills its queue."""

    kind: str
    worker: tuple[str, ...]
    fill: Fill
    queue: str = load.QUEUE
    events: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Drained:
    """The result of a worker.

    Attributes:
        rate: messages a second, from the due moment until the last one was settled.
        cpu_us: microseconds of processor time that each message cost the worker, Redis and, where this benchmark
            started it, Kafka.
    """

    rate: float
    cpu_us: dict[str, float]


def drain(bench: Bench, way: Way, count: int, kafka: str = "") -> Drained:
    """Let one worker process `count` messages that become due at once."""
    with bench.redis() as url, load.open_redis(url) as client:
        app = make_app(url, way.kind, kafka=kafka)

        def spent() -> dict[str, float]:
            redis = client.info("cpu")
            seconds = {"worker": cpu_s(worker.pid), "redis": redis["used_cpu_user"] + redis["used_cpu_sys"]}
            return {**seconds, "kafka": cpu_s(bench.kafka_pid)} if kafka and bench.kafka_pid else seconds

        def run(number: int) -> Drained:
            ids = way.fill(app, number)
            before = spent()
            moment = load.bring_in(client) if way.kind == "stock" else load.fall_due(client, way.queue, ids)
            took = load.wait_until_empty(client, 60 + number / 100) - moment
            after = spent()
            return Drained(number / took, {name: round(1e6 * (after[name] - before[name]) / number) for name in after})

        with bench.worker(way.kind, url, *way.worker, kafka=kafka, events=way.events, **way.options) as worker:
            run(WARM_UP)  # connections, and objects that are made at their first use
            drained = run(count)
    bench.progress(f"  {way.kind} {way.queue}: {count}, {drained.rate:.0f}/s, {drained.cpu_us} us")
    return drained


def drained_row(name: str, ours: list[Drained], stock: list[Drained], **row: Any) -> Row:
    """Return the row of two workers in the same rounds. Its limit is the rate with all cores."""
    cpu_us = median_figures([drained.cpu_us for drained in ours], 0)
    cores = os.cpu_count() or 1
    total = sum(cpu_us.values())
    figures = {
        "cpu_us": cpu_us,
        "stock_cpu_us": median_figures([drained.cpu_us for drained in stock], 0),
        "cores": cores,
        **row.pop("figures", {}),
    }
    shares = ", ".join(f"{name} {spent:g}" for name, spent in cpu_us.items())
    most = cores * 1e6 / total
    pair = paired([drained.rate for drained in ours], [drained.rate for drained in stock])
    limit = f"{total:g} us of processor time for each ({shares}): {most:,.0f}/s at most on {cores} cores"
    return Row(name=name, **pair, figures=figures, limit=limit, best=most, **row)


def noop_way(kind: str, queue: str) -> Way:
    """Return the way of a user's tasks that do nothing: ready in stock's list, waiting in rebound's schedule."""

    def fill(app: Celery, count: int) -> list[str]:
        if kind == "stock":
            return load.publish(app, "noop", [()] * count, queue=load.ASIDE)
        return load.publish(app, "noop", [()] * count, queue=queue, countdown=load.FAR_S)

    worker = STOCK_NOOP_WORKER if kind == "stock" else REBOUND_NOOP_WORKER
    return Way(kind, worker, fill, queue, options={"prefetch": PREFETCH})


def noop_tasks_and_deliveries(bench: Bench) -> Iterator[Row]:
    """Measure a user's tasks that do nothing, and retries to a destination that confirms all messages at once.

    The tasks wait in the leased queue, and as ordinary countdowns. Stock has them ready in its queue, due at once.
    """
    count, retries = bench.count(3000, 20_000), bench.count(15_000, 100_000)

    def fill(app: Celery, number: int) -> list[str]:
        return load.store_far_retries(app, "nowhere", number)

    deliveries = Way("rebound-nowhere", REBOUND_WORKER, fill, rebound_app.QUEUE)
    done = bench.alternate(
        bench.rounds,
        leased=lambda: drain(bench, noop_way("rebound", rebound_app.QUEUE), count),
        stock=lambda: drain(bench, noop_way("stock", load.QUEUE), count),
        countdown=lambda: drain(bench, noop_way("rebound", load.QUEUE), count),
        deliveries=lambda: drain(bench, deliveries, retries),
    )
    size = {"tasks": count, "rounds": bench.rounds}
    countdowns = median([drained.rate for drained in done["countdown"]])
    yield drained_row("noop_tasks", done["leased"], done["stock"], figures={"countdown": countdowns}, size=size)
    yield drained_row("noop_deliveries", done["deliveries"], done["stock"], size={"retries": retries, **size})


@dataclass
class _Books:
    """The records of one row: how many were delivered, and how many times."""

    delivered_twice: int = 0
    stock_missing: int = 0


def kafka(bench: Bench) -> Iterator[Row]:
    """Measure confirmed retries to Kafka with each client library, beside stock tasks that do the same."""
    rows = {"kafka": "kafka-python", "kafka_confluent": "confluent"}
    missing = {row: bench.missing_client(client) for row, client in rows.items()}
    clients = [client for row, client in rows.items() if row in bench.wanted and not missing[row]]
    done, figures, size = _to_kafka(bench, clients, events=False)
    for row, client in rows.items():
        if client in clients:
            yield drained_row(row, done[client], done["stock"], figures=figures, size=size)
        else:
            yield Row(name=row, skipped=missing[row])


def kafka_events(bench: Bench) -> Iterator[Row]:
    """Measure the same while the workers send task events. The value is that of the better client library."""
    missing = {client: bench.missing_client(client) for client in KAFKA_CLIENTS}
    clients = [client for client, why in missing.items() if not why]
    done, figures, size = _to_kafka(bench, clients, events=True)
    rates = {client: median([drained.rate for drained in done[client]]) for client in clients}
    best = max(rates, key=lambda client: rates[client])
    skipped = {client: why for client, why in missing.items() if why}
    figures = {**figures, "client": best, "by_client": rates, "skipped": skipped}
    yield drained_row("kafka_events", done[best], done["stock"], figures=figures, size=size)


def _to_kafka(
    bench: Bench, clients: list[str], *, events: bool
) -> tuple[dict[str, list[Drained]], dict[str, Any], dict[str, Any]]:
    """Deliver to Kafka with each client and with stock, in turns. Return the results, further figures, and the size."""
    count, plain_count = bench.count(15_000, 100_000), bench.count(1000, 20_000)
    books = _Books()

    def ours(client: str) -> Drained:
        topic = bench.new_topic()
        done = drain(bench, _kafka_way("rebound", topic, events=events, kafka_client=client), count, bench.kafka)
        delivered = load.times_delivered(load.read_topic(bench.kafka, topic, count + WARM_UP))
        missing = count + WARM_UP - (delivered["records"] - delivered["twice"])
        assert missing == 0, f"records are lost: {delivered}"
        books.delivered_twice += delivered["twice"]
        return done

    def stock() -> Drained:
        topic = bench.new_topic()
        done = drain(bench, _kafka_way("stock", topic, events=events), plain_count, bench.kafka)
        delivered = load.times_delivered(load.read_topic(bench.kafka, topic, plain_count + WARM_UP))
        # A stock task that fails is lost, because stock does not retry it.
        books.stock_missing += plain_count + WARM_UP - (delivered["records"] - delivered["twice"])
        return done

    ways = {client: partial(ours, client) for client in clients}
    done = bench.alternate(bench.rounds, **ways, stock=stock) if clients else {}
    return done, asdict(books), {"retries": count, "stock_tasks": plain_count, "rounds": bench.rounds}


def _kafka_way(kind: str, topic: str, *, events: bool, kafka_client: str = "") -> Way:
    def fill_stock(app: Celery, count: int) -> list[str]:
        values = ((topic, load.random_hex().decode()) for _ in range(count))
        return load.publish(app, "deliver", values, queue=load.ASIDE)

    def fill(app: Celery, count: int) -> list[str]:
        return load.store_far_retries(app, topic, count)

    if kind == "stock":
        return Way(kind, STOCK_WORKER, fill_stock, events=events, options={"prefetch": PREFETCH})
    options = {"kafka_client": kafka_client}
    return Way(kind, REBOUND_WORKER, fill, rebound_app.QUEUE, events=events, options=options)
