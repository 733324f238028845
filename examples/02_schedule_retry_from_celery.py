"""A Celery task that schedules a retry when it fails. The retry arrives as a Kafka record, 1 s later.

pip install -e ".[demo]"
python examples/02_schedule_retry_from_celery.py
"""

from __future__ import annotations

import contextlib

from celery import Celery
from kafka import KafkaConsumer

from rebound_celery import Rebound, schedule_retry
from rebound_celery.testing import running

app = Celery("shop")  # your existing app
Rebound(app)  # the only new line


def ask_the_bank(order: int) -> None:
    raise TimeoutError(f"the bank does not answer about order {order}")


@app.task
def charge(order: int) -> str | None:
    try:
        ask_the_bank(order)
    except TimeoutError as error:
        result = schedule_retry(
            "kafka://charges",
            {"order": order},
            key=f"order-{order}",
            headers={"currency": "EUR"},
            max_retries=5,
            base_delay=1,
            error=error,
        )
        return result.id
    return None


# In production you use your own Redis and Kafka, and `celery -A shop worker`.
with running(app, topics={"charges": 1}) as servers:
    charge.delay(42)
    options = {"auto_offset_reset": "earliest", "enable_auto_commit": False}
    with contextlib.closing(KafkaConsumer("charges", bootstrap_servers=servers.kafka, **options)) as charges:
        record = next(charges)
print(f"{record.topic}[{record.partition}]@{record.offset} key={record.key!r} value={record.value!r}")
for name, value in record.headers:
    print(f"    {name}: {value.decode()}")
