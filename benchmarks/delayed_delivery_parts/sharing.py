"""Measures several workers on one schedule, and several lanes in one schedule."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from celery import Celery

from rebound_celery.delivery.delivery import PRIORITY_NORMAL, Delivery
from rebound_celery.delivery.lanes import lane_of
from rebound_celery.message.address import KafkaAddress
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.store.values import Entry
from tests.waiting import wait_until

from . import load, rebound_app
from .apps import make_app
from .bench import Bench
from .notes import read_notes
from .rows import Row, median
from .throughput import REBOUND_WORKER

WORKERS = 4


def workers(bench: Bench) -> Iterator[Row]:
    """Measure four workers on one schedule: each message once, and no idle worker while messages are due."""
    count = bench.count(5000, 20_000, least=400)
    topic = bench.new_topic()
    with ExitStack() as stack:
        url = stack.enter_context(bench.redis())
        client = stack.enter_context(load.open_redis(url))
        app = make_app(url, "rebound", kafka=bench.kafka)
        notes = [bench.new_notes() for _ in range(WORKERS)]
        for number, path in enumerate(notes):
            options = ("-P", "threads", "-c", "1", "-n", f"w{number}@%h")
            stack.enter_context(bench.worker("rebound-busy", url, *options, kafka=bench.kafka, notes=path))
        moment = load.fall_due(client, rebound_app.QUEUE, load.store_far_retries(app, topic, count))
        end = load.wait_until_empty(client, 60 + count / 100)
        shares, gaps = zip(*(_share_and_gap(path, moment, end) for path in notes), strict=True)
    delivered = load.times_delivered(load.read_topic(bench.kafka, topic, count))
    yield Row(
        name="workers",
        value=round(min(shares) * WORKERS / count, 2),
        figures={
            "shares": shares,
            "longest_idle_ms": [round(gap * 1000) for gap in gaps],
            "per_s": round(count / (end - moment)),
            "missing": count - (delivered["records"] - delivered["twice"]),
            **delivered,
        },
        size={"retries": count, "workers": WORKERS},
    )


#: The number of messages in the small lane.
FEW = 10


def lanes(bench: Bench) -> Iterator[Row]:
    """Measure ten due messages of one lane behind many of another: the time until Kafka has confirmed all ten."""
    many = bench.count(100_000, 1_000_000, least=500)
    runs = [_time_small_lane(bench, many) for _ in range(bench.rounds)]
    yield Row(
        name="lanes",
        value=median([took for took, _ in runs], 3),
        figures={"delivered_until_then": [before for _, before in runs]},
        size={"many": many, "few": FEW, "rounds": bench.rounds},
    )


def _time_small_lane(bench: Bench, many: int) -> tuple[float, int]:
    """Return the seconds until the small lane was delivered, and how many messages of the big lane were by then."""
    big, small = bench.new_topic(), bench.new_topic()
    notes = bench.new_notes()
    with bench.redis() as url, load.open_redis(url) as client:
        app, store = make_app(url, "rebound", kafka=bench.kafka), load.store_of(client, rebound_app.QUEUE)
        with bench.worker("rebound-timed", url, *REBOUND_WORKER, kafka=bench.kafka, notes=notes):
            # The worker makes its connections before the measurement.
            load.store_retries(app, [load.retry(app, topic, b"1", load.now_ms()) for topic in (big, small)])
            load.wait_until_empty(client, 30)
            # The big lane is due all the time, but paused while it is filled. So all of it becomes due at one moment.
            store.pause(lane_of(KafkaAddress(big)), load.now_ms() + load.FAR_S * 1000)
            _fill_lane(app, store, big, many)
            moment_ms = load.now_ms() + 500
            load.store_retries(app, [load.retry(app, small, b"%d" % moment_ms, moment_ms + 1) for _ in range(FEW)])
            store.pause(lane_of(KafkaAddress(big)), moment_ms)

            def delivered() -> list[float]:
                return [at for due, at in read_notes(notes) if round(due * 1000) == moment_ms]

            wait_until(lambda: len(delivered()) >= FEW, timeout=60 + many / 1000)
            last = max(delivered())
            before = sum(at <= last for due, at in read_notes(notes) if due == 0)
    return last - moment_ms / 1000, before


def _fill_lane(app: Celery, store: Store, topic: str, count: int) -> None:
    """Store copies of a retry to the topic, with a due time in the past."""
    due_ms = load.now_ms() - 1000
    message, _ = load.retry(app, topic, b"0", due_ms)
    delivery = Delivery(message=message, task_id=message.task_id, due_ms=due_ms)
    stored, lane = delivery.encode(), delivery.lane
    store.enqueue(Entry(f"{number:036d}:1", due_ms, stored, lane, PRIORITY_NORMAL) for number in range(count))


def _share_and_gap(notes: Path, begin: float, end: float) -> tuple[int, float]:
    """Return how many messages a worker delivered, and its longest time without sending while there was work."""
    sent = sorted(read_notes(notes))
    gap, busy_until = 0.0, begin
    for began, ended in sent:
        gap, busy_until = max(gap, began - busy_until), max(busy_until, ended)
    return len(sent), max(gap, end - busy_until)
