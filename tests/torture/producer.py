"""A producer that records each confirmation of Kafka (or of Redis, for messages over HTTP).

python -m tests.torture.producer RATE
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections import deque
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from rebound_celery import errors
from tests.torture.app import rebound
from tests.torture.journal import PART, Journal
from tests.torture.plan import BASE_DELAY_S, DEAD_TOPIC, MAX_RETRIES, TOPIC, is_http, key_of

#: A record without a confirmation is given up after this time, in seconds. It still counts if it is in the topic.
CONFIRM_S = 20


class Sender:
    """Sends messages one after the other, and records the confirmed ones."""

    def __init__(self) -> None:
        self._journal = Journal("produced")
        self._producer: KafkaProducer | None = None
        self._open: deque[tuple[str, Any]] = deque()

    def send(self, message_id: str) -> None:
        if is_http(message_id):
            self._schedule(message_id)
            return
        try:
            if self._producer is None:
                self._producer = KafkaProducer(
                    bootstrap_servers=os.environ["REBOUND_KAFKA_BROKERS"].split(","),
                    delivery_timeout_ms=CONFIRM_S * 1000,
                    request_timeout_ms=5_000,
                    max_block_ms=5_000,
                    bootstrap_timeout_ms=5_000,
                    linger_ms=5,
                )
            value = json.dumps({"id": message_id}).encode()
            self._open.append((message_id, self._producer.send(TOPIC, value, key=key_of(message_id))))
        except (KafkaError, OSError) as error:
            self._fail(message_id, error)

    def note(self, *, wait: bool = False) -> None:
        """Record the confirmations so far. With `wait`, wait for all of them."""
        while self._open and (wait or self._open[0][1].is_done):
            message_id, future = self._open.popleft()
            try:
                place = future.get(timeout=CONFIRM_S + 5)
            except Exception as error:  # noqa: BLE001 - any error means that the record is not confirmed
                self._fail(message_id, error)
            else:
                self._journal.write(id=message_id, ns=time.time_ns(), partition=place.partition, offset=place.offset)

    def _schedule(self, message_id: str) -> None:
        began = time.time_ns()
        try:
            rebound.schedule_retry(
                os.environ["TORTURE_RECEIVER"],
                {"id": message_id},
                id=message_id,
                max_retries=MAX_RETRIES,
                base_delay=BASE_DELAY_S,
                dead_destination=f"kafka://{DEAD_TOPIC}",
                error="the first attempt was the caller's",
            )
        except errors.NotStoredError as error:
            self._journal.write(unconfirmed=message_id, ns=time.time_ns(), error=repr(error))
        else:
            self._journal.write(id=message_id, ns=began, http=True)

    def _fail(self, message_id: str, error: BaseException) -> None:
        self._journal.write(unconfirmed=message_id, ns=time.time_ns(), error=repr(error))
        producer, self._producer = self._producer, None
        if producer is not None:
            # After some errors an idempotent producer refuses all further records.
            with contextlib.suppress(KafkaError):
                producer.close(timeout=1)


def main(rate: float) -> None:
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    sender, prefix, number = Sender(), f"{os.environ[PART]}-{os.getpid()}", 0
    began = time.monotonic()
    while not stopping:
        sender.send(f"{prefix}-{number}")
        sender.note()
        number += 1
        # After an outage the missed messages are not sent, because the load must stay bounded.
        ahead = began + number / rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
        elif ahead < -1:
            began -= ahead
    sender.note(wait=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))
