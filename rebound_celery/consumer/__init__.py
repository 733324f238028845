"""Stage 1: reads records from Kafka, calls the user's handler, and stores a retry or a dead letter after a failure.

`Consumer` runs it, `ConsumerConfig` configures it, and `ConsumerStats` holds its counts.
"""

from __future__ import annotations

from .config import ConsumerConfig
from .consumer import Consumer
from .stats import ConsumerStats

__all__ = ["Consumer", "ConsumerConfig", "ConsumerStats"]
