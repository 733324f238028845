"""Stage 1: records from Kafka go to the user's handler; what fails becomes a stored retry or dead letter.

`Consumer` runs it, `ConsumerConfig` says what it does, `ConsumerStats` what it has done.
"""

from __future__ import annotations

from .config import ConsumerConfig
from .consumer import Consumer
from .stats import ConsumerStats

__all__ = ["Consumer", "ConsumerConfig", "ConsumerStats"]
