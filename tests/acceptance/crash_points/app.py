"""The Celery app and the handler of all processes of a step. The process with CRASH_STEP is killed there."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from rebound_celery import Rebound, Record
from rebound_celery.destinations import http
from tests.acceptance.crash_points.inject import arm
from tests.acceptance.crash_points.table import STEPS

app = Celery("crash_points", broker=os.environ["CRASH_REDIS"], backend=os.environ.get("CRASH_RESULTS"))
app.conf.broker_connection_retry_on_startup = True
rebound = Rebound(app)

if "CRASH_PATIENCE" in os.environ:
    http._PATIENCE_S = float(os.environ["CRASH_PATIENCE"])


def work(record: Record) -> None:
    """Handle a record. A value that begins with `once` fails at the first attempt, one with `never` at each."""
    word = (record.value or b"").decode().partition("-")[0]
    if word == "never" or (word == "once" and record.attempt == 1):
        raise ValueError(f"{word} is refused")


def handle(record: Record) -> None:
    # The line and its end are one write, because several handlers run at the same time.
    print(f"handled {(record.value or b'').decode()} attempt {record.attempt}\n", end="", flush=True)
    work(record)


if "CRASH_STEP" in os.environ:
    arm(STEPS[os.environ["CRASH_STEP"]].kill, Path(os.environ["CRASH_MARKER"]))
