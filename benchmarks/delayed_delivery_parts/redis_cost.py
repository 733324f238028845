"""What waiting messages cost Redis: memory, the work of claiming, and a worker's looks while nothing is due."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from rebound_celery.schedule.store.claims import DONE, ClaimId, End
from rebound_celery.schedule.store.values import Entry

from . import load, rebound_app
from .apps import make_app
from .bench import Bench, Row
from .processes import cpu_s
from .waiting import copies, wait_for_claims

#: Messages that one claim takes.
CLAIM = 100
LEASE_MS = 30_000
CONFIRM_MS = 5_000


def redis_memory(bench: Bench) -> Iterator[Row]:
    """Redis' own `used_memory` for each waiting retry, all overhead included; stock's is a task in its queue's list."""
    count, plain = bench.count(20_000, 100_000, least=1000), bench.count(5000, 20_000, least=1000)

    def ours(app: Any) -> object:
        return load.store_far_retries(app, "orders", count)

    def stock(app: Any) -> object:
        values = (("orders", load.random_hex().decode()) for _ in range(plain))
        return load.publish(app, "deliver", values, countdown=load.FAR_S)

    taken = {}
    for kind, fill, number in (("rebound", ours, count), ("stock", stock, plain)):
        with bench.redis() as url, load.open_redis(url) as client:
            app = make_app(url, kind)
            app.connection_for_write().ensure_connection()
            before = client.info("memory")["used_memory"]
            fill(app)
            taken[kind] = (client.info("memory")["used_memory"] - before) / number
    yield Row(
        name="redis_memory",
        value=round(taken["rebound"]),
        unit="bytes a retry",
        stock=round(taken["stock"]),
        ratio=round(taken["rebound"] / taken["stock"], 2),
        goal="600 bytes",
        met=taken["rebound"] <= 600,
        size={"retries": count, "stock_tasks": plain, "payload_bytes": load.PAYLOAD_BYTES},
    )


def claim(bench: Bench) -> Iterator[Row]:
    """Claiming and settling 100 due messages with a million others waiting, and with a thousand."""
    many, few = bench.count(200_000, 1_000_000, least=5000), 1000
    rounds = bench.count(150, 500, least=20)
    with bench.redis() as url, load.open_redis(url) as client:
        app = make_app(url, "rebound")
        (identity,) = load.store_far_retries(app, "orders", 1)
        entry = load.store_of(client, rebound_app.QUEUE).get(identity)
        assert entry is not None
        form = entry.stored
        stores = {name: load.store_of(client, name) for name in ("many", "few")}
        far_ms = load.now_ms() + load.FAR_S * 1000
        for name, number in (("many", many), ("few", few)):
            copies(stores[name], form, far_ms, range(number))
        costs: dict[str, list[float]] = {"many": [], "few": []}
        for number in range(rounds + 5):
            # Each takes its turn first: what slows the machine down slows both.
            for name in ("many", "few") if number % 2 else ("few", "many"):
                took = _claim_once(stores[name], form)
                if number >= 5:
                    costs[name].append(took)
    median = {name: statistics.median(values) for name, values in costs.items()}
    ratio = median["many"] / median["few"]
    yield Row(
        name="claim",
        value=round(ratio, 3),
        unit="times the cost with 1,000 waiting",
        goal="the same within 20 % with 1,000,000 waiting",
        met=ratio <= 1.2,
        figures={"us_per_message": {name: round(1e6 * value / CLAIM, 1) for name, value in median.items()}},
        size={"waiting": [few, many], "claims": rounds, "messages_a_claim": CLAIM},
    )


def _claim_once(store: Any, form: bytes) -> float:
    due_ms = load.now_ms() - 1000
    store.enqueue([Entry(f"due-{number}", due_ms, form) for number in range(CLAIM)])
    claim = ClaimId(f"benchmark {due_ms}", 1)
    began = time.perf_counter()
    found = store.claim(claim, CLAIM, LEASE_MS, CONFIRM_MS, ["0"])
    store.confirm(claim)
    settled = store.settle([End(message.id, claim.token, DONE) for message in found.messages])
    took = time.perf_counter() - began
    assert settled == CLAIM, f"{settled} of {CLAIM} were claimed and settled"
    return took


def idle(bench: Bench) -> Iterator[Row]:
    """A worker with nothing due: its share of a core, and the commands that Redis runs for it, scripts' own too."""
    seconds = bench.seconds(4, 30)
    ours, stock = (_idle(bench, kind, seconds) for kind in ("rebound", "stock"))
    yield Row(
        name="idle",
        value=ours["core_percent"],
        unit="% of a core",
        stock=stock["core_percent"],
        ratio=round(ours["core_percent"] / stock["core_percent"], 2) if stock["core_percent"] else None,
        goal="under 1 % of a core, under 10 Redis commands a second",
        met=ours["core_percent"] < 1 and ours["commands_per_s"] < 10,
        figures={**ours, "stock": stock},
        size={"seconds": seconds},
    )


def _idle(bench: Bench, kind: str, seconds: float) -> dict[str, Any]:
    with bench.redis() as url, load.open_redis(url) as client:
        app = make_app(url, kind)
        with bench.worker(kind, url, "-P", "prefork", "-c", "2", events=True) as worker:
            if kind == "rebound":
                load.store_far_retries(app, "orders", 100)
                wait_for_claims(client, 1)  # what it does at its start is over
            before, cpu, began = _calls(client), cpu_s(worker), time.monotonic()
            time.sleep(seconds)  # this is what is measured
            after, spent, took = _calls(client), cpu_s(worker) - cpu, time.monotonic() - began
    grown = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    return {
        "core_percent": round(100 * spent / took, 2),
        "commands_per_s": round(sum(grown.values()) / took, 1),
        "commands": {name: round(count / took, 2) for name, count in grown.items()},
    }


def _calls(client: Any) -> dict[str, int]:
    """Calls of each command since the server's start, without this client's own."""
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): values["calls"] for name, values in stats.items() if name != "cmdstat_info"}
