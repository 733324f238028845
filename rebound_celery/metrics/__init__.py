"""Prometheus metrics: what the schedule of a queue says, and the counters that are kept in Redis."""

from .collector import ReboundCollector, register
from .reading import Source, Work

__all__ = ["ReboundCollector", "Source", "Work", "register"]
