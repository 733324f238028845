"""What users import to test their own use of rebound.

`in_memory` needs no servers and does not wait: the test moves the clock.

    from rebound_celery.testing import in_memory

    with in_memory(app) as memory:
        memory.produce("orders", {"id": 42})
        memory.advance(minutes=10)

`running` starts Kafka, Redis and a worker for as long as a block lasts. It needs the extra `demo`.

    from rebound_celery.testing import running

    with running(app, topics={"orders": 4}) as servers:
        app.rebound.schedule_retry("kafka://orders", b"...", base_delay=1)
"""

from __future__ import annotations

from .in_memory import InMemory, WaitingRetry, in_memory
from .running import QUICK_JOIN, Servers, running

__all__ = ["QUICK_JOIN", "InMemory", "Servers", "WaitingRetry", "in_memory", "running"]
