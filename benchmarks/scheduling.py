"""How fast retries are scheduled, beside Celery's own `apply_async` and the bare client; one JSON line on stdout.

    python -m benchmarks.scheduling                         starts a Redis server of its own
    python -m benchmarks.scheduling --redis localhost:6379  uses database 0 there; empties only the queues of its own
    python -m benchmarks.scheduling --profile               tells where the time of `schedule_retry` goes, on stderr

Every way stores the same message in the same Redis, one connection each, in one thread. A round does all of them one
after the other; the figures are medians over the rounds. `plain` is `apply_async(countdown=5)` of an equivalent task
on a stock Celery app; `events` says whether `task_send_sent_event` is on, which Flower wants and which publishes a
second message for each call. The goal is the ratio `schedule_retry / plain`, at least 2. Where dramatiq is installed
(`pip install "dramatiq[redis]"`), its delayed send is measured too.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import importlib
import json
import pstats
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import redis
from celery import Celery

from rebound_celery import Rebound, RetryRequest
from tests.servers import local_redis

PLAIN_QUEUE = "scheduling-plain"
REBOUND_QUEUE = "scheduling-rebound"
DRAMATIQ_QUEUE = "scheduling-dramatiq"
ZADD_KEY = "scheduling-zadd"

COUNTDOWN_S = 5
BULK_CHUNK = 1000
#: How many threads call `schedule_retry` at once.
THREADS = 8

#: Does a number of calls; what it takes is timed.
Way = Callable[[int], object]


def make_app(url: str, *, events: bool) -> Celery:
    app = Celery(set_as_current=False, broker=url)
    app.conf.update(task_send_sent_event=events, worker_send_task_events=events, task_default_queue=PLAIN_QUEUE)
    return app


def as_texts(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as a task takes them, which must be JSON."""
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in arguments.items()}


def plain_way(url: str, arguments: dict[str, Any], *, events: bool) -> Way:
    """What a user writes without rebound: a task that takes the same data, and a countdown."""
    app = make_app(url, events=events)

    @app.task(name="plain.deliver", ignore_result=True, shared=False)
    def deliver(destination: str, value: str, **options: Any) -> None:
        """Stand for the delivery; no worker runs it here."""

    kwargs = as_texts(arguments)

    def run(count: int) -> None:
        for _ in range(count):
            deliver.apply_async(kwargs=kwargs, countdown=COUNTDOWN_S)

    return run


def dramatiq_way(url: str, arguments: dict[str, Any]) -> Way | None:
    """The same data as a delayed message of dramatiq's; None where it is not installed."""
    try:
        dramatiq = importlib.import_module("dramatiq")
        broker = importlib.import_module("dramatiq.brokers.redis").RedisBroker(url=url)
    except ImportError:
        return None
    kwargs = as_texts(arguments)

    @dramatiq.actor(broker=broker, queue_name=DRAMATIQ_QUEUE)
    def deliver(**options: Any) -> None:
        """Stand for the delivery; no worker runs it here."""

    def run(count: int) -> None:
        for _ in range(count):
            deliver.send_with_options(kwargs=kwargs, delay=COUNTDOWN_S * 1000)

    return run


def in_threads(way: Way) -> Way:
    """The same from several threads at once: calls that wait share a round trip."""

    def run(count: int) -> None:
        workers = [threading.Thread(target=way, args=(count // THREADS,)) for _ in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return run


def rebound_ways(url: str, arguments: dict[str, Any], *, events: bool) -> tuple[Rebound, dict[str, Way]]:
    rebound = Rebound(make_app(url, events=events), queue=REBOUND_QUEUE)

    def one_by_one(count: int) -> None:
        for _ in range(count):
            rebound.schedule_retry(**arguments)

    def bulk(count: int) -> None:
        for error in rebound.schedule_retries([arguments] * count).errors():
            raise error

    def store(count: int) -> None:
        # As the consumer does it: messages are at hand, and each is another one.
        now_ms = time.time_ns() // 1_000_000
        made = (RetryRequest(**arguments).to_message(rebound.settings, now_ms) for _ in range(count))
        while chunk := [pair for pair, _ in zip(made, range(BULK_CHUNK), strict=False)]:
            rebound.store(chunk)

    return rebound, {
        "schedule_retry": one_by_one,
        "schedule_retries": bulk,
        "store": store,
        "eight threads": in_threads(one_by_one),
    }


def zadd_way(client: redis.Redis, stored: bytes) -> Way:
    """The floor of any client: the same bytes, one ZADD a call, nothing built."""

    def run(count: int) -> None:
        due = time.time() + COUNTDOWN_S
        for number in range(count):
            client.zadd(ZADD_KEY, {stored + b"%d" % number: due})

    return run


def keys_of(client: redis.Redis, queue: str) -> list[bytes]:
    """All keys of a queue, in whichever form its messages wait there."""
    return list(client.scan_iter(f"*{queue}*", count=1000))


def longest_entry(client: redis.Redis, queue: str) -> bytes:
    """The message that waits in the queue, as it is stored."""
    readers: dict[bytes, Callable[[bytes], Any]] = {
        b"string": lambda key: [client.get(key)],
        b"list": lambda key: client.lrange(key, 0, -1),
        b"hash": client.hvals,
        b"zset": lambda key: client.zrange(key, 0, -1),
    }
    return max((entry for key in keys_of(client, queue) for entry in readers[client.type(key)](key)), key=len)


def empty(client: redis.Redis) -> None:
    queues = PLAIN_QUEUE, REBOUND_QUEUE, DRAMATIQ_QUEUE
    client.delete(ZADD_KEY, *(key for queue in queues for key in keys_of(client, queue)))


Figures = dict[str, list[float]]


def measure(ways: dict[str, Way], client: redis.Redis, rounds: int, count: int) -> tuple[Figures, Figures]:
    """Calls a second and microseconds of processor time a call, of each way in each round.

    Each round takes another order, so that none has the better place.
    """
    rates: Figures = {name: [] for name in ways}
    costs: Figures = {name: [] for name in ways}
    names = list(ways)
    for way in ways.values():
        way(max(20, count // 10))  # connections, imports, templates
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            empty(client)
            started, cpu = time.perf_counter(), time.process_time()
            ways[name](count)
            rates[name].append(count / (time.perf_counter() - started))
            costs[name].append(1e6 * (time.process_time() - cpu) / count)
    empty(client)
    return rates, costs


def report(rates: Figures, costs: Figures, count: int, stored: int) -> dict[str, Any]:
    median = {name: statistics.median(values) for name, values in rates.items()}

    def ratio(name: str, base: str) -> float:
        # Of one round each: what slowed the machine down then slowed both.
        return round(statistics.median(a / b for a, b in zip(rates[name], rates[base], strict=True)), 2)

    return {
        "per_second": {name: round(value) for name, value in median.items()},
        "cpu_us": {name: round(statistics.median(values)) for name, values in costs.items()},
        "ratio": {
            "schedule_retry / plain": ratio("schedule_retry", "plain"),
            "schedule_retry / plain, events": ratio("schedule_retry, events", "plain, events"),
            "schedule_retry / zadd": ratio("schedule_retry", "zadd"),
            "eight threads / one": ratio("eight threads", "schedule_retry"),
            "eight threads, events / one": ratio("eight threads, events", "schedule_retry, events"),
            "schedule_retries / plain": ratio("schedule_retries", "plain"),
            "store / plain": ratio("store", "plain"),
            "store, events / plain, events": ratio("store, events", "plain, events"),
            **({"schedule_retry / dramatiq": ratio("schedule_retry", "dramatiq")} if "dramatiq" in rates else {}),
        },
        "calls": count,
        "rounds": len(next(iter(rates.values()))),
        "stored_bytes": stored,
    }


def profile(way: Way, count: int) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    way(count)
    profiler.disable()
    pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(30)


@contextlib.contextmanager
def open_server(address: str | None) -> Iterator[str]:
    if address is not None:
        yield f"redis://{address}/0"
        return
    with local_redis() as server:
        yield server.url


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", metavar="HOST:PORT", help="default: a server of its own")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1000, help="calls of each way in a round (default: 1000)")
    parser.add_argument("--payload", type=int, default=200, metavar="BYTES", help="default: 200")
    parser.add_argument("--profile", action="store_true", help="profile schedule_retry as well, to stderr")
    options = parser.parse_args(argv)
    arguments = {
        "destination": "kafka://orders",
        "value": b"x" * options.payload,
        "key": b"key-1",
        "headers": {"trace": "abc"},
        "base_delay": COUNTDOWN_S,
        "max_retries": 3,
    }
    with open_server(options.redis) as url, redis.Redis.from_url(url) as client:
        quiet, quiet_ways = rebound_ways(url, arguments, events=False)
        _, loud_ways = rebound_ways(url, arguments, events=True)
        quiet.schedule_retry(**arguments)
        stored = longest_entry(client, REBOUND_QUEUE)
        ways: dict[str, Way] = {
            "plain": plain_way(url, arguments, events=False),
            "plain, events": plain_way(url, arguments, events=True),
            "zadd": zadd_way(client, stored),
            **quiet_ways,
            **{f"{name}, events": way for name, way in loud_ways.items()},
        }
        if other := dramatiq_way(url, arguments):
            ways["dramatiq"] = other
        rates, costs = measure(ways, client, options.rounds, options.calls)
        print(json.dumps(report(rates, costs, options.calls, len(stored))))
        if options.profile:
            profile(quiet_ways["schedule_retry"], 2000)
            profile(loud_ways["schedule_retry"], 2000)
            empty(client)
    return 0


if __name__ == "__main__":
    sys.exit(main())
