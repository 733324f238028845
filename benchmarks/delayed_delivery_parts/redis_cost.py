"""Measures the cost of waiting messages for Redis: memory, processor time, and claims while nothing is due."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from rebound_celery.delivery.delivery import PRIORITY_NORMAL, Delivery
from rebound_celery.schedule.store.claims import DONE, ClaimId, End
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.store.values import Claimed, Entry

from . import load
from .apps import make_app
from .bench import Bench
from .processes import cpu_s
from .rows import Row, median, paired, quotient
from .waiting import copies, wait_for_claims

#: Messages that one claim takes.
CLAIM = 100
LEASE_MS = 30_000
CONFIRM_MS = 5_000

#: The size of a worker's batches if many messages are due.
BATCH = 250


def redis_memory(bench: Bench) -> Iterator[Row]:
    """Measure Redis' `used_memory` for each waiting retry, with all overhead. Stock has a task in its queue's list."""
    count, plain = bench.count(20_000, 100_000, least=1000), bench.count(5000, 20_000, least=1000)

    def ours(app: Any) -> object:
        return load.store_far_retries(app, "orders", count)

    def stock(app: Any) -> object:
        values = (("orders", load.random_hex().decode()) for _ in range(plain))
        return load.publish(app, "deliver", values, countdown=load.FAR_S)

    def take(kind: str, fill: Callable[[Any], object], number: int) -> float:
        with bench.redis() as url, load.open_redis(url) as client:
            app = make_app(url, kind)
            app.connection_for_write().ensure_connection()
            before = client.info("memory")["used_memory"]
            fill(app)
            return float(client.info("memory")["used_memory"] - before) / number

    done = bench.alternate(
        bench.rounds, ours=lambda: take("rebound", ours, count), stock=lambda: take("stock", stock, plain)
    )
    yield Row(
        name="redis_memory",
        **paired(done["ours"], done["stock"]),
        size={
            "retries": count,
            "stock_tasks": plain,
            "payload_bytes": load.PAYLOAD_BYTES,
            "rounds": bench.rounds,
        },
    )


def redis_time(bench: Bench) -> Iterator[Row]:
    """Measure Redis' time (INFO commandstats) for the scripts that enqueue, claim and settle."""
    count, rounds = bench.count(5000, 20_000, least=BATCH), bench.quick_rounds
    with bench.redis() as url, load.open_redis(url) as client:
        app, store = make_app(url, "rebound"), load.store_of(client, "measured")
        # These messages stay, so that the sorted sets are as large as those of a real queue.
        store.enqueue(_due_entries(app, count, far=True))
        done = [_time_scripts(app, client, store, count) for _ in range(rounds + 1)][1:]
    size = {"messages": count, "a_batch": BATCH, "waiting": count, "rounds": rounds}
    for step in ("enqueue", "claim", "settle"):
        yield Row(name=f"redis_{step}", value=median([spent[step] for spent in done], 2), size=size)


def _time_scripts(app: Any, client: Any, store: Store, count: int) -> dict[str, float]:
    """Return the microseconds of Redis for each message, by step."""
    claims: list[tuple[str, list[Claimed]]] = []
    name = f"benchmark {time.time_ns()}"

    def claim() -> None:
        lanes: list[str] = []
        for number in itertools.count(1):
            asked = ClaimId(name, number)
            found = store.claim(asked, BATCH, LEASE_MS, CONFIRM_MS, lanes)
            if not found.messages and lanes:
                return
            if found.messages:
                store.confirm(asked)
                claims.append((asked.token, found.messages))
            # In the same way as a worker, which has the lanes after its first claim.
            lanes = lanes or found.unknown

    def settle() -> None:
        for token, messages in claims:
            assert store.settle([End(message.id, token, DONE) for message in messages]) == len(messages)

    entries = _due_entries(app, count, far=False)
    spent = {
        "enqueue": _script_us(client, lambda: store.enqueue(entries)),
        "claim": _script_us(client, claim),
        "settle": _script_us(client, settle),
    }
    number = sum(len(messages) for _, messages in claims)
    assert number == count, f"{number} of {count} were claimed"
    return {step: microseconds / count for step, microseconds in spent.items()}


def _script_us(client: Any, call: Callable[[], object]) -> float:
    """Return the microseconds that Redis spends on scripts, with the commands inside them."""

    def spent() -> float:
        stats = client.info("commandstats")
        return float(sum(stats.get(f"cmdstat_{name}", {}).get("usec", 0) for name in ("evalsha", "eval", "fcall")))

    before = spent()
    call()
    return spent() - before


def _due_entries(app: Any, count: int, *, far: bool) -> list[Entry]:
    """Return retries in their stored form, due now, or in a long time."""
    due_ms = load.now_ms() + (load.FAR_S * 1000 if far else -1000)
    entries = []
    for _ in range(count):
        message, _ = load.retry(app, "orders", load.random_hex(), due_ms)
        delivery = Delivery(message=message, task_id=message.task_id, due_ms=due_ms)
        entries.append(Entry(delivery.task_id, due_ms, delivery.encode(), delivery.lane, PRIORITY_NORMAL))
    return entries


def claim(bench: Bench) -> Iterator[Row]:
    """Measure claiming and settling 100 due messages while a million others wait, and while a thousand wait."""
    many, few = bench.count(200_000, 1_000_000, least=5000), 1000
    rounds = bench.count(150, 500, least=20)
    with bench.redis() as url, load.open_redis(url) as client:
        (entry,) = _due_entries(make_app(url, "rebound"), 1, far=True)
        stores = {name: load.store_of(client, name) for name in ("many", "few")}
        for name, number in (("many", many), ("few", few)):
            copies(stores[name], entry.stored, entry.due_ms, range(number))
        costs: dict[str, list[float]] = {"many": [], "few": []}
        for number in range(rounds + 5):
            # They take turns, so that other load on the machine slows both.
            for name in ("many", "few") if number % 2 else ("few", "many"):
                took = _claim_once(stores[name], entry.stored)
                if number >= 5:
                    costs[name].append(took)
    us = {name: round(1e6 * statistics.median(values) / CLAIM, 1) for name, values in costs.items()}
    yield Row(
        name="claim",
        value=us["many"],
        peer="1,000 waiting",
        peer_value=us["few"],
        ratio=quotient(us["many"], us["few"]),
        size={"waiting": [few, many], "claims": rounds, "messages_a_claim": CLAIM},
    )


def _claim_once(store: Store, form: bytes) -> float:
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
    """Measure a worker with nothing due: its share of a core, and Redis' commands for it, with those in scripts."""
    seconds = bench.seconds(10, 30)
    done = bench.alternate(
        bench.rounds, ours=lambda: _idle(bench, "rebound", seconds), stock=lambda: _idle(bench, "stock", seconds)
    )
    commands = {who: [run["commands_per_s"] for run in done[who]] for who in done}
    pair = paired(commands["ours"], commands["stock"], digits=1)
    yield Row(
        name="idle",
        **pair,
        figures={
            "more_than_stock": round(pair["value"] - pair["peer_value"], 1),
            "core_percent": median([run["core_percent"] for run in done["ours"]], 2),
            "stock_core_percent": median([run["core_percent"] for run in done["stock"]], 2),
            "commands": done["ours"][-1]["commands"],
            "stock_commands": done["stock"][-1]["commands"],
        },
        size={"seconds": seconds, "rounds": bench.rounds},
    )


def _idle(bench: Bench, kind: str, seconds: float) -> dict[str, Any]:
    with bench.redis() as url, load.open_redis(url) as client:
        app = make_app(url, kind)
        with bench.worker(kind, url, "-P", "prefork", "-c", "2", events=True) as worker:
            if kind == "rebound":
                load.store_far_retries(app, "orders", 100)
                wait_for_claims(client, 1)  # the start of the worker is over
            before, cpu, began = _calls(client), cpu_s(worker.pid), time.monotonic()
            time.sleep(seconds)  # the measured time
            after, spent, took = _calls(client), cpu_s(worker.pid) - cpu, time.monotonic() - began
    grown = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    return {
        "core_percent": round(100 * spent / took, 2),
        "commands_per_s": round(sum(grown.values()) / took, 1),
        "commands": {name: round(count / took, 2) for name, count in grown.items()},
    }


def _calls(client: Any) -> dict[str, int]:
    """Return the calls of each command since the server's start, without this client's own calls."""
    stats = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): values["calls"] for name, values in stats.items() if name != "cmdstat_info"}
