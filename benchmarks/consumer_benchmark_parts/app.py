"""The Celery app of the benchmark and of its worker. The addresses come from the environment."""

from __future__ import annotations

from celery import Celery

from rebound_celery import Rebound

QUEUE = "consumer-benchmark"

app = Celery(QUEUE, set_as_current=False)
app.conf.broker_connection_retry_on_startup = True
Rebound(app, queue=QUEUE)
