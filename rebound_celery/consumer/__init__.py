"""Stage 1: reads records from Kafka, calls the user's handler, and stores a retry or a dead letter after a failure.

`Consumer` runs it, `ConsumerConfig` configures it, and `ConsumerStats` holds its counts. `ConsumerDeclarations` takes
what an app declares, and `run_together` runs it.
"""

from __future__ import annotations

from .config import ConsumerConfig
from .consumer import Consumer
from .declared import ConsumerDeclarations, Declared
from .stats import ConsumerStats
from .together import run_together

__all__ = ["Consumer", "ConsumerConfig", "ConsumerDeclarations", "ConsumerStats", "Declared", "run_together"]
