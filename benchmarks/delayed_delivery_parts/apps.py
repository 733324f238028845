"""The measured Celery apps: the same tasks on stock Celery and on rebound."""

from __future__ import annotations

import functools
import os
import time
from typing import Any

from celery import Celery
from celery.signals import worker_ready

from .notes import note

READY = "the benchmark's worker is ready"


def make_app(
    url: str, kind: str, *, events: bool = False, kafka: str = "", kafka_client: str = "", prefetch: int = 4
) -> Celery:
    """An app with the benchmark's tasks.

    Args:
        url: the URL of the Redis broker.
        kind: "stock", or "rebound" with one of its destinations; see `rebound_app`.
        events: whether its worker sends task events.
        kafka: the Kafka brokers that `deliver` and rebound produce to.
        kafka_client: the client library with which rebound produces; empty means its default.
        prefetch: `worker_prefetch_multiplier`.
    """
    app = Celery("delayed-delivery", broker=url, set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        task_ignore_result=True,
        task_send_sent_event=False,
        worker_send_task_events=events,
        worker_prefetch_multiplier=prefetch,
    )
    if kind != "stock":
        # Imported only here, because the process of a stock worker must not load rebound's transport.
        from .rebound_app import add_rebound

        add_rebound(app, kind, kafka, kafka_client)
    add_tasks(app, kafka)
    return app


def add_tasks(app: Celery, kafka: str) -> None:
    @app.task(name="noop", shared=False)
    def noop() -> None:
        """Do nothing."""

    @app.task(name="nap", shared=False)
    def nap(seconds: float) -> None:
        time.sleep(seconds)

    @app.task(name="tell", shared=False)
    def tell(due: float) -> None:
        note([(due, time.time())])

    @app.task(name="deliver", shared=False, bind=True)
    def deliver(self: Any, topic: str, value: str) -> None:
        """Deliver a retry without rebound: produce the record, and wait until Kafka has confirmed it."""
        producer(kafka, os.getpid()).send(topic, value=value.encode(), key=self.request.id.encode()).get(30)


@functools.cache
def producer(brokers: str, _pid: int) -> Any:
    """Return this process's producer."""
    from kafka import KafkaProducer

    return KafkaProducer(bootstrap_servers=brokers.split(","))


@worker_ready.connect
def say_ready(**_: object) -> None:
    # Not `print`, because Celery makes a log record of each printed line.
    os.write(1, f"{READY}\n".encode())
