"""A Celery app on Redis, without Kafka. Its countdowns wait in Redis, can be listed, and can be revoked for good.

pip install -e ".[demo]"
python examples/05_countdowns_without_kafka.py
"""

from __future__ import annotations

import threading

from celery import Celery
from celery.contrib.testing.worker import start_worker

from rebound_celery import install_schedule
from rebound_celery.embedded import EmbeddedRedis

app = Celery("reminders")  # your existing app
install_schedule(app)  # the only new line
app.conf.worker_hijack_root_logger = False

reminded = threading.Event()


@app.task
def remind(what: str) -> None:
    print(f"time for {what}", flush=True)
    reminded.set()


# In production you use your own Redis, and `celery -A reminders worker`.
with EmbeddedRedis() as redis:
    app.conf.broker_url = redis.url
    remind.apply_async(("tea",), countdown=1.5)
    remind.apply_async(("the dentist",), countdown=365 * 86_400)
    # No worker runs that could receive the revocation. Stock Celery would run this task later.
    remind.apply_async(("coffee",), countdown=1.5).revoke()

    with start_worker(app, pool="threads", concurrency=2, perform_ping_check=False, loglevel="ERROR"):
        reminded.wait(20)
        for worker, tasks in app.control.inspect(timeout=2).scheduled().items():
            for task in tasks:
                request = task["request"]
                call = f"{request['name'].rpartition('.')[2]}({', '.join(map(repr, request['args']))})"
                print(f"{worker.partition('@')[0]} will run {call} at {task['eta'][:10]}")
    app.close()
