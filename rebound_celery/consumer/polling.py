"""Polls Kafka: decides how long a poll waits, and waits after an error that may pass."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer

from ..clock import Clock
from ..compat.kafka_python import release_set_aside_records
from ..message.headers import KafkaRecord
from ..redaction import Redactor
from .backpressure import Backpressure
from .commits import Commits
from .connection import FATAL
from .failure_pause import FailurePause
from .offset_tracker import OffsetTracker
from .stop import StopFlag

#: How long a poll waits for records, in milliseconds: while every record is done and committed, while records are in
#: flight, and while a commit is due or under way. A commit is sent between two polls, and its answer is read there. So
#: the last two are short: if the process is killed, the records that are done and not committed are handled again.
IDLE_POLL_MS = 100
BUSY_POLL_MS = 10
COMMIT_POLL_MS = 2

#: The time between two long polls, in seconds; twice this time while a commit is due. While records are in flight or
#: fetching is paused, polls are short. In a short poll kafka-python cannot finish some of its work, for example the
#: search for new topics of a pattern.
LONG_POLL_EVERY_S = 1.0

#: How long the loop waits for the handlers when memory is full, in seconds.
WAIT_S = 0.02

#: The time between two polls after an error, in seconds. It doubles from the first one to the last one.
FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 5.0

logger = logging.getLogger(__name__)


class Polling:
    """The polls of one KafkaConsumer. Only the loop's thread may call the methods.

    Args:
        consumer: the KafkaConsumer.
        offset_tracker: the tracker of the records in flight.
        commits: the commits that a poll must not delay.
        backpressure: the bound on the records in memory.
        failure_pause: the pause while most records fail; None if the consumer has none.
        flag: ends a wait.
        wake: the event that ends a wait.
        redact: decides the part of an error's text that is logged.
        clock: tells the time.
    """

    def __init__(
        self,
        consumer: KafkaConsumer,
        offset_tracker: OffsetTracker,
        commits: Commits,
        backpressure: Backpressure,
        failure_pause: FailurePause | None,
        flag: StopFlag,
        wake: threading.Event,
        redact: Redactor,
        *,
        clock: Clock,
    ) -> None:
        self._consumer = consumer
        self._offset_tracker = offset_tracker
        self._commits = commits
        self._backpressure = backpressure
        self._failure_pause = failure_pause
        self._flag = flag
        self._wake = wake
        self._redact = redact
        self._clock = clock
        #: The reason why Kafka cannot be polled; None if it can.
        self.outage: str | None = None
        self._error: str | None = None
        self._backoff_s = FIRST_BACKOFF_S
        self._next_long_poll = 0.0

    def wait(self) -> None:
        """Wait until a record is handled or stored, but not long."""
        self._wake.wait(WAIT_S)
        self._wake.clear()

    def next_records(self, timeout_ms: int | None = None) -> Mapping[Any, Sequence[KafkaRecord]]:
        """Poll. After an error that may pass, log it once and wait.

        Args:
            timeout_ms: how long the poll waits for records; None takes what the load asks for.
        """
        release_set_aside_records(self._consumer)
        try:
            pause = self._failure_pause
            room = 1 if pause is not None and pause.is_probing else self._backpressure.room
            timeout_ms = self._timeout_ms() if timeout_ms is None else timeout_ms
            records: Mapping[Any, Sequence[KafkaRecord]] = self._consumer.poll(timeout_ms, room)
        except FATAL:
            raise
        except Exception as error:  # noqa: BLE001 - it is logged, and Kafka is polled again
            self._failed(error)
            return {}
        self.outage = None
        if records and self._error is not None:
            self._error = None
            self._backoff_s = FIRST_BACKOFF_S
        return records

    def _timeout_ms(self) -> int:
        now = self._clock.monotonic()
        commit_in_s = self._commits.due_in_s()
        if now >= self._next_long_poll + (0 if commit_in_s is None else LONG_POLL_EVERY_S):
            self._next_long_poll = now + LONG_POLL_EVERY_S
            return IDLE_POLL_MS
        if self._backpressure.is_full and not self._backpressure.awaits_commit:
            self.wait()
            return 0
        longest = BUSY_POLL_MS if self._offset_tracker.busy() else IDLE_POLL_MS
        return longest if commit_in_s is None else min(longest, max(COMMIT_POLL_MS, round(1000 * commit_in_s)))

    def _failed(self, error: Exception) -> None:
        text = self._redact.text(repr(error))
        self.outage = f"Kafka cannot be polled: {text}"
        if text != self._error:
            self._error = text
            extra: dict[str, object] = {"event": "poll_failed"}
            self._redact.log(logger, "polling Kafka failed; it is tried again", error=error, extra=extra)
        deadline = self._clock.monotonic() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, LAST_BACKOFF_S)
        while self._clock.monotonic() < deadline and not self._flag.stop:
            self.wait()
