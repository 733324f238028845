"""The app of docker-compose.yml. It reads its addresses from CELERY_BROKER_URL and REBOUND_KAFKA_BROKERS.

`python compose_app.py GROUP` is the consumer's health check: it exits with 0 if the consumer group has a member.
"""

from __future__ import annotations

import sys

from celery import Celery

from rebound_celery import Rebound, Record

app = Celery("shop")
app.conf.broker_connection_retry_on_startup = True
rebound = Rebound(app)


def handle(record: Record) -> None:
    """Print an order. An order with the word `fail` fails each time."""
    text = (record.value or b"").decode(errors="replace")
    print(f"attempt {record.attempt} of {record.origin}: {text}", flush=True)
    if "fail" in text:
        raise ValueError("this order says fail")


def has_member(group: str) -> bool:
    from kafka import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=list(rebound.settings.kafka_brokers))
    try:
        return bool(admin.describe_groups([group])[group]["members"])
    finally:
        admin.close()


if __name__ == "__main__":
    sys.exit(0 if has_member(sys.argv[1]) else f"the group {sys.argv[1]!r} has no member")
