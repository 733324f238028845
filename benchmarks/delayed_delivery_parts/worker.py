"""The app module of the benchmark's worker processes: `celery -A benchmarks.delayed_delivery_parts.worker`."""

from __future__ import annotations

import os

from .apps import make_app

app = make_app(
    os.environ["BENCH_REDIS"],
    os.environ["BENCH_APP"],
    events=os.environ["BENCH_EVENTS"] == "1",
    kafka=os.environ["BENCH_KAFKA"],
    kafka_client=os.environ["BENCH_KAFKA_CLIENT"],
    prefetch=int(os.environ["BENCH_PREFETCH"]),
)
