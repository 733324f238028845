"""What users import to test their own use of rebound: Kafka, Redis and a worker for as long as a block lasts.

    from rebound_celery.testing import running

    with running(app, topics={"orders": 4}) as servers:
        app.rebound.schedule_retry("kafka://orders", b"...", base_delay=1)

It needs the extra `demo`.
"""

from __future__ import annotations

from .running import QUICK_JOIN, Servers, running

__all__ = ["QUICK_JOIN", "Servers", "running"]
