"""Produces the demo's messages at a steady rate, in a thread."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Mapping
from functools import partial
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from ..clock import SYSTEM_CLOCK, Clock

#: How many customers there are. The customer is the key, so that some keys have several messages at a time.
_CUSTOMERS = 500

#: Seconds between two looks at the clock. The messages that are due by then are sent together.
_TICK_S = 0.05

#: Seconds that Kafka has to confirm a message.
_DELIVERY_TIMEOUT_S = 15


def message(number: int) -> tuple[str, bytes, bytes]:
    """The id, key and value of message `number`. They are the same in every run."""
    message_id = f"order-{number:06d}"
    value = {"id": message_id, "customer": number % _CUSTOMERS, "amount": round(5 + number * 7.3 % 95, 2)}
    return message_id, f"customer-{number % _CUSTOMERS}".encode(), json.dumps(value).encode()


class Producer:
    """Sends messages to a topic until `stop()`.

    Attributes:
        confirmed: the ids that Kafka has confirmed so far. Only these count as produced.
        error: the error of the last message that Kafka did not confirm.
        unconfirmed: how many messages Kafka did not confirm.
    """

    def __init__(
        self, brokers: str, topic: str, rate: float, security: Mapping[str, Any], *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        self._kafka: Any = KafkaProducer(
            bootstrap_servers=brokers.split(","),
            linger_ms=20,
            metrics_enabled=False,
            delivery_timeout_ms=1000 * _DELIVERY_TIMEOUT_S,
            request_timeout_ms=10_000,
            max_block_ms=10_000,
            **security,
        )
        self._topic = topic
        self._rate = rate
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rebound-demo-producer", daemon=True)
        self._closed = False
        self.confirmed: set[str] = set()
        self.unconfirmed = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience_s: float | None = None) -> None:
        """Send no more messages, and wait until each is confirmed or has failed, but no longer than `patience_s`."""
        self._stopping.set()
        patience_s = 2 * _DELIVERY_TIMEOUT_S if patience_s is None else patience_s
        if self._thread.is_alive():
            self._thread.join(patience_s)
        if not self._closed:
            self._closed = True
            # It raises for messages that are not confirmed; the callbacks have reported those already.
            with contextlib.suppress(KafkaError):
                self._kafka.close(timeout=patience_s)

    def _run(self) -> None:
        start, sent = self._clock.monotonic(), 0
        while not self._stopping.wait(_TICK_S):
            due = int((self._clock.monotonic() - start) * self._rate)
            while sent < due and not self._stopping.is_set():
                sent += 1
                self._send(*message(sent))

    def _send(self, message_id: str, key: bytes, value: bytes) -> None:
        try:
            future = self._kafka.send(self._topic, value, key=key)
        except Exception as error:  # noqa: BLE001 - Kafka is away; the message counts as unconfirmed, and the next one is tried
            self._failed(error)
            return
        future.add_callback(partial(self._arrived, message_id))
        future.add_errback(self._failed)

    def _arrived(self, message_id: str, _where: object) -> None:
        self.confirmed.add(message_id)

    def _failed(self, error: BaseException) -> None:
        self.unconfirmed += 1
        self.error = error
