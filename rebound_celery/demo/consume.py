"""The demo's consumer process."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict

from .plan import Plan


def command(plan: Plan, *, topic: str, group: str, results: str, base_delay: float) -> list[str]:
    """The command line of a consumer process, which reads its servers from the environment as the worker does."""
    told = {"plan": asdict(plan), "topic": topic, "group": group, "results": results, "base_delay": base_delay}
    return [sys.executable, "-m", __name__, json.dumps(told)]


def main(text: str) -> None:
    """Consume until SIGTERM."""
    # Imported here, because the demo's own process needs only `command`.
    from kafka import KafkaProducer

    from ..consumer import Consumer, ConsumerConfig
    from .app import app
    from .handler import CONFIRM_TIMEOUT_MS, Handler

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    told = json.loads(text)
    plan = Plan(**told["plan"])
    producer = KafkaProducer(
        bootstrap_servers=list(app.rebound.settings.kafka_brokers),
        request_timeout_ms=CONFIRM_TIMEOUT_MS - 1_000,
        delivery_timeout_ms=CONFIRM_TIMEOUT_MS,
        # The account counts a call only once, also if it is written twice.
        enable_idempotence=False,
        acks="all",
        linger_ms=5,
        metrics_enabled=False,
        **app.rebound.settings.kafka_connection(),
    )
    config = ConsumerConfig(
        group=told["group"],
        topics=told["topic"],
        handler=Handler(plan, producer, told["results"]),
        max_retries=plan.max_retries,
        base_delay=told["base_delay"],
        concurrency=16,
        stop_timeout=10,
        # On the embedded broker a group waits half of this time for further members.
        kafka_options={"session_timeout_ms": 6_000, "heartbeat_interval_ms": 1_000},
    )
    Consumer(config, app).run(handle_signals=True)
    producer.close(timeout=5)


if __name__ == "__main__":
    main(sys.argv[1])
