"""A process that only schedules the retry requests in CRASH_CALL: one request, or several at once, as JSON.

`python -m tests.acceptance.crash_points.call`.
"""

from __future__ import annotations

import json
import os

from rebound_celery import ReboundError
from tests.acceptance.crash_points import app

if __name__ == "__main__":
    requests = json.loads(os.environ["CRASH_CALL"])
    if len(requests) == 1:
        app.rebound.schedule_retry(**requests[0])
    else:
        for outcome in app.rebound.schedule_retries(requests):
            if isinstance(outcome, ReboundError):
                raise outcome
