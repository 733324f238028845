"""Retries for Kafka consumers and Celery: exponential backoff, dead letters with their reason, no lost message."""

from .app import Rebound
from .config import Settings
from .consumer import Consumer, ConsumerConfig
from .current_app import handle_failure, handle_failure_async, schedule_retries, schedule_retry
from .errors import InvalidSettingError, NotInstalledError, NotStoredError, ReboundError, UnreachableError
from .http_options import HttpOptions
from .message import Message, Record
from .policy import ErrorRule, RetryPolicy
from .policy.instructions import DeadLetter, Drop, RetryAfter
from .requests import RetryRequest
from .schedule import install_schedule

__all__ = [  # noqa: RUF022 - grouped by what they are for
    # an app, and what it schedules
    "Rebound",
    "Settings",
    "schedule_retry",
    "schedule_retries",
    "RetryRequest",
    "install_schedule",
    "HttpOptions",
    # a consumer
    "Consumer",
    "ConsumerConfig",
    "RetryPolicy",
    "ErrorRule",
    "Record",
    "Message",
    # a consumer that is not rebound's
    "handle_failure",
    "handle_failure_async",
    # what a handler raises to decide itself
    "RetryAfter",
    "DeadLetter",
    "Drop",
    # errors
    "ReboundError",
    "InvalidSettingError",
    "NotInstalledError",
    "NotStoredError",
    "UnreachableError",
]
