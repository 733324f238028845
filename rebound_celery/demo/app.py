"""The demo's Celery app: `celery -A rebound_celery.demo.app worker` and `... flower` run on it.

Its addresses come from the environment, where Celery and Rebound look for them by themselves: CELERY_BROKER_URL,
REBOUND_KAFKA_BROKERS, REBOUND_QUEUE.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals

from ..app import Rebound

#: What the worker writes to its output when it takes messages.
READY = "rebound demo: the worker is ready"


def make_app(broker_url: str | None = None, **settings: Any) -> Celery:
    """An app with Rebound; `settings` are those of `Rebound`."""
    app = Celery("rebound-demo", broker=broker_url, set_as_current=False)
    app.conf.broker_connection_retry_on_startup = True
    app.conf.worker_hijack_root_logger = True
    Rebound(app, **settings)
    return app


app = make_app()


@signals.worker_ready.connect
def _say_ready(**_: Any) -> None:
    # Not print: Celery turns stdout into log lines.
    if sys.__stdout__ is not None:
        sys.__stdout__.write(f"{READY}\n")
        sys.__stdout__.flush()
