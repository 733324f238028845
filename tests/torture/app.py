"""The Celery app under torture. Its settings come from the environment: TORTURE_REDIS, and REBOUND_* variables."""

from __future__ import annotations

import os

from celery import Celery

from rebound_celery import Rebound

app = Celery("torture", broker=os.environ.get("TORTURE_REDIS"))
app.conf.broker_connection_retry_on_startup = True
rebound = Rebound(app)
