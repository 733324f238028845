"""A shop with retries, as a user would write it: `celery -A tests.acceptance.apps.orders worker`.

All settings come from the environment: ORDERS_REDIS, Celery's settings in ORDERS_CONF as JSON, and rebound's own
REBOUND_* variables.
"""

from __future__ import annotations

import json
import os

from celery import Celery

from rebound_celery import Rebound

app = Celery("orders", broker=os.environ.get("ORDERS_REDIS"))
app.conf.update(json.loads(os.environ.get("ORDERS_CONF", "{}")))
rebound = Rebound(app)


@app.task
def ship(order: int) -> int:
    """A task of the shop's own, in the default queue."""
    return order
