"""The demo's Celery app: `celery -A rebound_celery.demo.app worker` and `... flower` run on it.

Celery and Rebound read its addresses from the environment: CELERY_BROKER_URL, REBOUND_KAFKA_BROKERS, REBOUND_QUEUE.
"""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals

from ..app import Rebound

#: The line that the worker writes when it starts to receive messages.
READY = "rebound demo: the worker is ready"


def make_app(broker_url: str | None = None, **settings: Any) -> Celery:
    """Make an app with Rebound; `settings` are the keywords of `Rebound`."""
    app = Celery("rebound-demo", broker=broker_url, set_as_current=False)
    app.conf.broker_connection_retry_on_startup = True
    app.conf.worker_hijack_root_logger = True
    Rebound(app, **settings)
    return app


app = make_app()


@signals.worker_ready.connect
def _say_ready(**_: Any) -> None:
    # Celery turns what is printed into log lines, and the demo looks for this line itself.
    if sys.__stdout__ is not None:
        sys.__stdout__.write(f"{READY}\n")
        sys.__stdout__.flush()
