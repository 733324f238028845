"""What operators see and select: filters, and the views of what waits and of what was given up.

All faces share it: Python, commands, HTTP and pages. It is pure: nothing here reads Redis or Kafka.
"""

from __future__ import annotations

from .filter import FILTER_FIELDS, NO_FILTER, Filter
from .times import duration_text, read_duration_s, read_time_ms
from .views import REDIS, DeadLetterView, PendingView

__all__ = [
    "FILTER_FIELDS",
    "NO_FILTER",
    "REDIS",
    "DeadLetterView",
    "Filter",
    "PendingView",
    "duration_text",
    "read_duration_s",
    "read_time_ms",
]
