"""A process with a consumer. CRASH_CONSUMER is its configuration as JSON.

`python -m tests.acceptance.crash_points.consume`.
"""

from __future__ import annotations

import json
import logging
import os

from rebound_celery import Consumer, ConsumerConfig
from tests.acceptance.crash_points import app

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.ERROR)
    # Looked up in the module, because the step may have replaced it there.
    config = ConsumerConfig(handler=app.handle, **json.loads(os.environ["CRASH_CONSUMER"]))
    Consumer(config, app.app).run(handle_signals=True)
