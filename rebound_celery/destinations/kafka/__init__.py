"""The Kafka destination: one port, and one module for each client library."""

from __future__ import annotations

from .destination import KafkaDestination
from .options import check_options

__all__ = ["KafkaDestination", "check_options"]
