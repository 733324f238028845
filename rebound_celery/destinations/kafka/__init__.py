"""The Kafka destination: one file for each client library."""

from __future__ import annotations

from .kafka_python import KafkaDestination

__all__ = ["KafkaDestination"]
