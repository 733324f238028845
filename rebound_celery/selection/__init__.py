"""What operators see and select: filters, and the views of what waits and of what was given up.

All faces share it: Python, commands, HTTP and pages. It is pure: nothing here reads Redis or Kafka.
"""

from __future__ import annotations

from .arguments import check_choice, check_count, check_filter, check_limit, check_text
from .filter import FILTER_FIELDS, NO_FILTER, Filter
from .results import ActionResult, Progress
from .times import duration_text, read_duration_s, read_time_ms, refuse_seconds
from .views import DEAD_LETTER, JOB_STEP, REDIS, RETRY, TASK, UNREADABLE, DeadLetterView, PendingView, bytes_to_dict

__all__ = [
    "DEAD_LETTER",
    "FILTER_FIELDS",
    "JOB_STEP",
    "NO_FILTER",
    "REDIS",
    "RETRY",
    "TASK",
    "UNREADABLE",
    "ActionResult",
    "DeadLetterView",
    "Filter",
    "PendingView",
    "Progress",
    "bytes_to_dict",
    "check_choice",
    "check_count",
    "check_filter",
    "check_limit",
    "check_text",
    "duration_text",
    "read_duration_s",
    "read_time_ms",
    "refuse_seconds",
]
