"""The same six benchmarks, under the same names, as in Rebound's Go service."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery

from rebound_celery import Rebound

THREADS = 8
PARALLEL_TASKS = 400

TASK: dict[str, Any] = {
    "source": "benchmark",
    "client_id": "benchmark-client",
    "max_retries": 3,
    "base_delay": 5,
    "message_data": '{"order_id": 12345, "customer": "c-77", "amount": 99.5}',
}
KAFKA = {
    "destination": {"host": "localhost", "port": 9092, "topic": "orders"},
    "dead_destination": {"host": "localhost", "port": 9092, "topic": "orders-dlq"},
    "destination_type": "kafka",
}
HTTP = {
    "destination": {"url": "https://example.com/hooks/orders"},
    "dead_destination": {"url": "https://example.com/hooks/dead"},
    "destination_type": "http",
}


def test_task_creation_kafka(benchmark: Any, rebound: Rebound) -> None:
    benchmark(rebound.schedule_retry, **TASK, **KAFKA)


def test_task_creation_http(benchmark: Any, rebound: Rebound) -> None:
    benchmark(rebound.schedule_retry, **TASK, **HTTP)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(THREADS) as threads:
        yield threads


def test_parallel_task_creation(benchmark: Any, rebound: Rebound, pool: ThreadPoolExecutor) -> None:
    """Create 400 tasks from 8 threads in each round. `tasks_per_s` is in the extra information."""

    def create(_number: int) -> object:
        return rebound.schedule_retry(**TASK, **KAFKA)

    def create_all() -> int:
        return sum(1 for _ in pool.map(create, range(PARALLEL_TASKS)))

    assert benchmark(create_all) == PARALLEL_TASKS
    if benchmark.stats is not None:
        benchmark.extra_info["tasks_per_s"] = round(PARALLEL_TASKS / benchmark.stats["median"])


@pytest.mark.parametrize("size", [100, 1_000, 10_000, 100_000], ids=["100B", "1KB", "10KB", "100KB"])
def test_variable_payload(benchmark: Any, rebound: Rebound, size: int) -> None:
    benchmark(rebound.schedule_retry, **{**TASK, "message_data": "x" * size}, **KAFKA)


@pytest.mark.parametrize(
    ("max_retries", "base_delay"), [(1, 5), (3, 5), (5, 10), (10, 30)], ids=["1x5s", "3x5s", "5x10s", "10x30s"]
)
def test_retry_configurations(benchmark: Any, rebound: Rebound, max_retries: int, base_delay: int) -> None:
    benchmark(rebound.schedule_retry, **{**TASK, "max_retries": max_retries, "base_delay": base_delay}, **KAFKA)


def test_initialization(benchmark: Any, redis_url: str) -> None:
    """Make `Rebound(app)` on a new app. Nothing connects."""
    apps = iter(lambda: Celery("benchmark", broker=redis_url, set_as_current=False), None)
    benchmark.pedantic(Rebound, setup=lambda: ((next(apps),), {}), rounds=200)
