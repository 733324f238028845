"""The app of docker-compose.yml and of the Kubernetes example.

Its addresses come from the environment: CELERY_BROKER_URL and REBOUND_KAFKA_BROKERS.
"""

from __future__ import annotations

from celery import Celery

from rebound_celery import Rebound, Record

app = Celery("shop")
app.conf.broker_connection_retry_on_startup = True
Rebound(app)


def handle(record: Record) -> None:
    """Print an order. An order with the text `fail` fails each time."""
    text = (record.value or b"").decode(errors="replace")
    print(f"attempt {record.attempt} of {record.origin}: {text}", flush=True)
    if "fail" in text:
        raise ValueError("this order says fail")
