"""Measures how fast retries are scheduled, beside `apply_async` and the bare client; prints one JSON line on stdout.

    python -m benchmarks.scheduling                         starts its own Redis server
    python -m benchmarks.scheduling --redis localhost:6379  uses database 0 there, and empties only its own queues
    python -m benchmarks.scheduling --profile               prints a profile on stderr

Each way stores the same message in the same Redis. A round runs all ways one after the other; the figures are medians
over the rounds. One thread makes the calls, except in `eight threads`.

    plain              `apply_async(countdown=5)` of an equivalent task on a stock Celery app
    zadd               one ZADD of the stored bytes for each call, with redis-py
    schedule_retry     one call for each retry
    schedule_retries   many retries in one call
    store              the consumer's work for a failed record: it reads the record, decides, and stores 500 at once
    dramatiq, huey     their delayed sends, if they are installed (`pip install "dramatiq[redis]" huey`)

`events` means that `task_send_sent_event` is on: each call then publishes an event too, which Flower needs.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import pstats
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import redis

from benchmarks.scheduling_ways import (
    COUNTDOWN_S,
    PEERS,
    QUEUES,
    REBOUND_QUEUE,
    ZADD_KEY,
    Way,
    peer_ways,
    plain_way,
    rebound_ways,
    zadd_way,
)
from tests.servers import local_redis


def keys_of(client: redis.Redis, queue: str) -> list[bytes]:
    """Return all keys of a queue: its list or its schedule."""
    return list(client.scan_iter(f"*{queue}*", count=1000))


def longest_entry(client: redis.Redis, queue: str) -> bytes:
    """Return the longest stored form of a message that waits in the queue."""
    hashes = [key for key in keys_of(client, queue) if client.type(key) == b"hash"]
    return max((entry for key in hashes for entry in client.hvals(key)), key=len)


def empty(client: redis.Redis) -> None:
    client.delete(ZADD_KEY, *(key for queue in QUEUES for key in keys_of(client, queue)))


Figures = dict[str, list[float]]


def measure(ways: dict[str, Way], client: redis.Redis, rounds: int, count: int) -> tuple[Figures, Figures]:
    """Return the calls a second, and the microseconds of processor time of a call, of each way in each round.

    Each round has another order, so that no way always has the best place.
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
        # Both figures are from the same round, so other load on the machine has slowed both.
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
            **{f"schedule_retry / {peer}": ratio("schedule_retry", peer) for peer in PEERS if peer in rates},
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
    parser.add_argument("--profile", action="store_true", help="print profiles to stderr as well")
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
        ways |= peer_ways(url, arguments)
        rates, costs = measure(ways, client, options.rounds, options.calls)
        print(json.dumps(report(rates, costs, options.calls, len(stored))))
        if options.profile:
            for name in ("schedule_retry", "schedule_retries", "store"):
                print(f"{name}, without events", file=sys.stderr)
                profile(quiet_ways[name], 2000)
            print("schedule_retry, with events", file=sys.stderr)
            profile(loud_ways["schedule_retry"], 2000)
            empty(client)
    return 0


if __name__ == "__main__":
    sys.exit(main())
