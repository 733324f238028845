"""Measures the cost of waiting messages for a worker: its memory, and the time of its stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.store.values import Entry
from tests.processes import Process
from tests.waiting import wait_until

from . import load
from .apps import make_app
from .bench import Bench
from .processes import memory_mb, settle
from .rows import STOCK, Row, median, paired, quotient

#: The largest change of the memory while it is read, in megabytes.
_STILL_MB = 0.3


@dataclass(frozen=True)
class Held:
    """A worker with waiting messages: its memory by their number, and the time of its stop."""

    rss_mb: dict[int, float]
    pss_mb: dict[int, float]
    stop_s: float

    def growth(self) -> float:
        """Return the megabytes between the least and the most memory."""
        return round(max(self.pss_mb.values()) - min(self.pss_mb.values()), 1)


def worker_memory_and_warm_stop(bench: Bench) -> Iterator[Row]:
    """Measure one worker with more and more waiting messages, and its stop. Stock gets fewer, as each takes 10 kB."""
    steps = [bench.count(100_000, 100_000), *([bench.count(0, 1_000_000)] if bench.full else [])]
    plain = bench.count(3000, 20_000)
    done = bench.alternate(
        bench.rounds, ours=lambda: _hold(bench, "rebound", steps), stock=lambda: _hold(bench, "stock", [plain])
    )
    most = steps[-1]
    ours, stock = (median([held.growth() for held in done[who]], 1) for who in ("ours", "stock"))
    size = {"waiting": most, "stock_waiting": plain, "rounds": bench.rounds}
    yield Row(
        name="worker_memory",
        value=ours,
        peer=f"{STOCK}, {plain:,}",
        peer_value=stock,
        # The ratio is for each waiting message, because stock has fewer.
        ratio=quotient(ours / most, stock / plain),
        figures={
            "pss_mb": [held.pss_mb for held in done["ours"]],
            "rss_mb": [held.rss_mb for held in done["ours"]],
            "stock_pss_mb": [held.pss_mb for held in done["stock"]],
        },
        size={**size, "waiting": [0, *steps]},
    )
    stops = {who: [held.stop_s for held in done[who]] for who in done}
    yield Row(name="warm_stop", **paired(stops["ours"], stops["stock"], digits=2), size=size)


def _hold(bench: Bench, kind: str, steps: list[int]) -> Held:
    rss, pss = {}, {}
    with bench.redis() as url, load.open_redis(url) as client:
        app = make_app(url, kind)
        with bench.worker(kind, url, "-P", "prefork", "-c", "2") as worker:
            there = 0
            for count in (0, *steps):
                if kind == "stock":
                    load.publish(app, "noop", [()] * count, countdown=load.FAR_S)
                    # A stock worker takes them from the queue and holds them unacknowledged.
                    wait_until(lambda count=count: client.hlen("unacked") == count, timeout=60 + count / 200)
                else:
                    fill(app, client, there, count)
                    wait_for_claims(client, 1)
                there = count
                settle(lambda: memory_mb(worker)[1], within=_STILL_MB)
                rss[count], pss[count] = memory_mb(worker)
            bench.progress(f"  {kind}: {pss} MB")
            stop_s = _time_stop(worker)
    return Held(rss, pss, stop_s)


def _time_stop(worker: Process) -> float:
    """Return the seconds from SIGTERM to the end of the process."""
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    worker.wait(120)
    return round(time.monotonic() - began, 2)


def fill(app: Any, client: Any, first: int, count: int) -> None:
    """Store waiting messages with the numbers from `first` to `count`: copies of a real one, each with its own id."""
    store = load.store_of(client, load.QUEUE)
    due_ms = load.now_ms() + load.FAR_S * 1000
    (identity,) = load.publish(app, "noop", [()], countdown=load.FAR_S)
    (form,) = store.cancel(identity)
    copies(store, form, due_ms, range(first, count))


def copies(store: Store, form: bytes, due_ms: int, numbers: range) -> None:
    for start in range(numbers.start, numbers.stop, 5000):
        chunk = range(start, min(start + 5000, numbers.stop))
        store.enqueue([Entry(f"{number:036d}", due_ms, form) for number in chunk])


def wait_for_claims(client: Any, times: int) -> None:
    """Wait until the worker has made `times` further claims."""

    def calls() -> int:
        stats = client.info("commandstats")
        return sum(int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("evalsha", "mget"))

    before = calls()
    wait_until(lambda: calls() >= before + times, timeout=30)
