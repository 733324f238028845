"""Measures circuit breakers: their cost while all is well, and a destination that is away beside one that works."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from celery import Celery

from rebound_celery.delivery.delivery import PRIORITY_NORMAL, Delivery
from rebound_celery.embedded import free_port
from rebound_celery.requests import RetryRequest
from rebound_celery.schedule.store.values import Entry
from tests.waiting import wait_until

from . import load, rebound_app
from .apps import make_app
from .bench import Bench
from .processes import cpu_s
from .rows import Row, median, paired
from .throughput import REBOUND_WORKER, Way, drain

_ON = {"REBOUND_BREAKER": "on"}


def breaker(bench: Bench) -> Iterator[Row]:
    """Measure a worker's rate to a destination that confirms at once, with circuit breakers and without."""
    count = bench.count(30_000, 100_000)

    def fill(app: Celery, number: int) -> list[str]:
        return load.store_far_retries(app, "nowhere", number)

    def rate(**options: Any) -> float:
        way = Way("rebound-nowhere", REBOUND_WORKER, fill, rebound_app.QUEUE, options=options)
        return drain(bench, way, count).rate

    done = bench.alternate(bench.quick_rounds, on=lambda: rate(settings=_ON), off=rate)
    yield Row(
        name="breaker",
        **paired(done["on"], done["off"], 0),
        peer="without breakers",
        size={"retries": count, "rounds": bench.quick_rounds},
    )


def outage(bench: Bench) -> Iterator[Row]:
    """Measure a worker while a receiver refuses connections and many messages wait for it."""
    many, count = bench.count(100_000, 100_000, least=500), bench.count(20_000, 50_000)
    seconds = bench.seconds(15, 60)
    topic, runs = bench.new_topic(), []
    cpu_us: list[tuple[float, float]] = []
    for _ in range(bench.rounds):
        with bench.redis() as url, load.open_redis(url) as client:
            app = make_app(url, "rebound", kafka=bench.kafka)
            with bench.worker("rebound", url, *_TWO_PROCESSES, kafka=bench.kafka, settings=_ON) as worker:
                _drain(app, client, topic, 500, 0)  # connections
                idle = _commands_per_s(client, seconds)
                spent = [cpu_s(worker.pid)]
                rate_without = _drain(app, client, topic, count, 0)
                spent.append(cpu_s(worker.pid))
                _begin_outage(app, client, many)
                busy = _commands_per_s(client, seconds)
                spent.append(cpu_s(worker.pid))
                rate_with = _drain(app, client, topic, count, many)
                spent.append(cpu_s(worker.pid))
                # Once more without the outage, so that other load on the machine slows both alike.
                load.store_of(client, rebound_app.QUEUE).purge()
                rate_without = (rate_without + _drain(app, client, topic, count, 0)) / 2
        cpu_us.append((1e6 * (spent[3] - spent[2]) / count, 1e6 * (spent[1] - spent[0]) / count))
        runs.append((busy - idle, idle, rate_with, rate_without))
        bench.progress(f"  outage: {busy:.1f} commands/s, idle {idle:.1f}; {rate_with:.0f}/s, {rate_without:.0f}/s")
    pair = paired([run[2] for run in runs], [run[3] for run in runs], 0)
    yield Row(
        name="outage",
        value=median([run[0] for run in runs], 1),
        peer="without an outage",
        ratio=pair["ratio"],
        figures={
            "idle_commands_per_s": median([run[1] for run in runs], 1),
            "others_per_s": pair["value"],
            "others_per_s_without_outage": pair["peer_value"],
            "worker_cpu_us": median([during for during, _ in cpu_us], 0),
            "worker_cpu_us_without_outage": median([without for _, without in cpu_us], 0),
        },
        size={"waiting": many, "others": count, "seconds": seconds, "rounds": bench.rounds},
    )


#: One process more than for the rate alone: posts have one, as with every worker of more than one.
_TWO_PROCESSES = ("-P", "prefork", "-c", "2", "--without-mingle", "--without-gossip")


def _begin_outage(app: Celery, client: Any, count: int) -> None:
    """Store messages to a receiver that is away, and wait until its breaker is open and no worker holds one of them."""
    request = RetryRequest(destination=f"http://127.0.0.1:{free_port()}/", value=b"0", max_retries=3, base_delay=1)
    message, _ = request.to_message(app.rebound.settings, load.now_ms())
    delivery = Delivery(message=message, task_id=message.task_id)
    stored, lane, due_ms = delivery.encode(), delivery.lane, load.now_ms()
    store = load.store_of(client, rebound_app.QUEUE)
    store.enqueue(Entry(f"{number:036d}:1", due_ms, stored, lane, PRIORITY_NORMAL) for number in range(count))
    wait_until(lambda: bool(store.breakers()), timeout=60)
    wait_until(lambda: store.counts().leased == 0, timeout=60)


def _commands_per_s(client: Any, seconds: float) -> float:
    """How many commands a second Redis runs, those inside scripts too, apart from this measurement's."""
    before, began = _commands(client), time.monotonic()
    time.sleep(seconds)
    return (_commands(client) - before - 1) / (time.monotonic() - began)


def _commands(client: Any) -> int:
    return sum(int(stats["calls"]) for stats in client.info("commandstats").values())


def _drain(app: Celery, client: Any, topic: str, count: int, others: int) -> float:
    """The rate at which retries to Kafka are delivered while `others` messages wait elsewhere."""
    ids = load.store_far_retries(app, topic, count)
    moment = load.fall_due(client, rebound_app.QUEUE, ids)
    wait_until(lambda: load.left(client) <= others, timeout=60 + count / 100, interval=0.01)
    return count / (time.time() - moment)
