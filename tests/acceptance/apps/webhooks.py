"""A shop that sends signed webhooks, as a user would write it: `celery -A tests.acceptance.apps.webhooks worker`."""

from __future__ import annotations

import os

from celery import Celery

from rebound_celery import HttpOptions, Rebound

KEY = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

app = Celery("webhooks", broker=os.environ.get("ORDERS_REDIS"))
app.conf.rebound_http_destinations = {
    "http://127.0.0.1:*/*": HttpOptions(secret=KEY, headers={"X-Shop": "7"}, public_only=False),
    "*": {"public_only": True},
}
rebound = Rebound(app)
