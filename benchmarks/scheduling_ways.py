"""The ways to store a delayed message that `benchmarks.scheduling` compares."""

from __future__ import annotations

import importlib
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import redis
from celery import Celery

from rebound_celery import ConsumerConfig, Rebound
from rebound_celery.consumer.failure_handler import FailureHandler
from rebound_celery.consumer.offset_tracker import Job, Partition, PartitionTracker
from rebound_celery.consumer.reading import read_safely
from rebound_celery.consumer.retry_writer import BATCH_MESSAGES
from rebound_celery.message import Message

PLAIN_QUEUE = "scheduling-plain"
REBOUND_QUEUE = "scheduling-rebound"
DRAMATIQ_QUEUE = "scheduling-dramatiq"
#: huey drops all characters of the name that are not letters or digits.
HUEY_QUEUE = "schedulinghuey"
QUEUES = (PLAIN_QUEUE, REBOUND_QUEUE, DRAMATIQ_QUEUE, HUEY_QUEUE)
ZADD_KEY = "scheduling-zadd"

PEERS = ("dramatiq", "huey")
COUNTDOWN_S = 5
GROUP = "billing"
#: How many threads call `schedule_retry` at once.
THREADS = 8

#: Makes a number of calls. The benchmark times them.
Way = Callable[[int], object]


def make_app(url: str, *, events: bool) -> Celery:
    app = Celery(set_as_current=False, broker=url)
    app.conf.update(task_send_sent_event=events, worker_send_task_events=events, task_default_queue=PLAIN_QUEUE)
    return app


def as_texts(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments for a task. They must be JSON."""
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in arguments.items()}


def plain_way(url: str, arguments: dict[str, Any], *, events: bool) -> Way:
    """Return the way without rebound: a task that takes the same data, and a countdown."""
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
    """Return the way of dramatiq: the same data as a delayed message. None if dramatiq is not installed."""
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


def huey_way(url: str, arguments: dict[str, Any]) -> Way | None:
    """Return the way of huey: the same data as a delayed task. None if huey is not installed."""
    try:
        huey = importlib.import_module("huey")
    except ImportError:
        return None
    kwargs = as_texts(arguments)
    app = huey.RedisHuey(HUEY_QUEUE, url=url, results=False)

    @app.task()
    def deliver(**options: Any) -> None:
        """Stand for the delivery; no worker runs it here."""

    def run(count: int) -> None:
        for _ in range(count):
            deliver.schedule(kwargs=kwargs, delay=COUNTDOWN_S)

    return run


def peer_ways(url: str, arguments: dict[str, Any]) -> dict[str, Way]:
    """Return the delayed sends of the installed peers."""
    found = {"dramatiq": dramatiq_way(url, arguments), "huey": huey_way(url, arguments)}
    return {name: way for name, way in found.items() if way is not None}


class KafkaRecord(NamedTuple):
    """The fields of kafka-python's ConsumerRecord that the consumer reads."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def consumer_way(rebound: Rebound, arguments: dict[str, Any]) -> Way:
    """Return the consumer's work for a record whose handler raised, without Kafka and without handler threads."""
    config = ConsumerConfig(group=GROUP, topics="orders", handler=print, base_delay=COUNTDOWN_S)
    failures = FailureHandler(config, rebound.settings)
    tracker = PartitionTracker(Partition("orders", 0))
    key, value = arguments["key"], arguments["value"]
    error = ConnectionRefusedError("[Errno 111] Connection refused")
    offsets = itertools.count()

    def retry(offset: int) -> tuple[Message, int]:
        now_ms = time.time_ns() // 1_000_000
        record = read_safely(KafkaRecord("orders", 0, offset, now_ms, key, value, []), GROUP)
        failed = failures.decide(Job(record, tracker), error, now_ms)
        return failed.message, failed.due_ms

    def run(count: int) -> None:
        for start in range(0, count, BATCH_MESSAGES):
            rebound.store([retry(next(offsets)) for _ in range(start, min(start + BATCH_MESSAGES, count))])

    return run


def rebound_ways(url: str, arguments: dict[str, Any], *, events: bool) -> tuple[Rebound, dict[str, Way]]:
    """Return rebound's ways to store retries, on a new app."""
    rebound = Rebound(make_app(url, events=events), queue=REBOUND_QUEUE)

    def one_by_one(count: int) -> None:
        for _ in range(count):
            rebound.schedule_retry(**arguments)

    def bulk(count: int) -> None:
        for error in rebound.schedule_retries([arguments] * count).errors():
            raise error

    def threads(count: int) -> None:
        # Calls that wait at the same time share a round trip.
        shares = [count // THREADS + (number < count % THREADS) for number in range(THREADS)]
        workers = [threading.Thread(target=one_by_one, args=(share,)) for share in shares]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return rebound, {
        "schedule_retry": one_by_one,
        "schedule_retries": bulk,
        "store": consumer_way(rebound, arguments),
        "eight threads": threads,
    }


def zadd_way(client: redis.Redis, stored: bytes) -> Way:
    """Return the cheapest possible way: one ZADD of the same bytes a call, without making a message."""

    def run(count: int) -> None:
        due = time.time() + COUNTDOWN_S
        for number in range(count):
            client.zadd(ZADD_KEY, {stored + b"%d" % number: due})

    return run
