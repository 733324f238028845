"""The consumer's line for each failed record: what failed, with which text, and what follows."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from rebound_celery.config import Settings
from rebound_celery.consumer import ConsumerConfig
from rebound_celery.consumer.failure_handler import FailureHandler
from tests.unit.test_consumer_offset_tracker import OffsetTracker, admit


def line_of(caplog: pytest.LogCaptureFixture, level: str, **fields: Any) -> logging.LogRecord:
    """The line that is logged for a first attempt that failed."""
    caplog.set_level(level, "rebound_celery.consumer.failure_handler")
    config = ConsumerConfig(group="g", topics="orders", handler=print, **fields)
    (job,) = admit(OffsetTracker(), 7)
    FailureHandler(config, Settings()).decide(job, KeyError("no such order"), 0)
    (line,) = caplog.records
    return line


def test_line_of_a_retry_has_the_error_and_then_what_follows(caplog: pytest.LogCaptureFixture) -> None:
    line = line_of(caplog, "INFO", max_retries=3, base_delay=5)

    assert line.levelno == logging.INFO
    assert line.getMessage() == (
        "attempt 1/4 of orders[3]@7 (message 7) failed with KeyError: 'no such order'; attempt 2 follows in 5 s"
    )
    assert (line.event, line.message_id, line.origin, line.attempt) == ("retry", "7", "orders[3]@7", 1)  # type: ignore[attr-defined]
    assert (line.destination, line.reason) == ("kafka:orders", None)  # type: ignore[attr-defined]
    assert line.exc_info is None


def test_line_of_a_dead_letter_is_a_warning_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    line = line_of(caplog, "INFO", max_retries=0)

    assert line.levelno == logging.WARNING
    assert line.getMessage().endswith("KeyError: 'no such order'; it becomes a dead letter: retries-exhausted")
    assert (line.event, line.destination, line.reason) == (  # type: ignore[attr-defined]
        "dead_letter",
        "kafka:orders-dlq",
        "retries-exhausted",
    )


def test_stack_is_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    assert line_of(caplog, "DEBUG").exc_info is not None
