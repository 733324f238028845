"""The demo's handler: it fails on purpose, and records each of its calls in Kafka."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from ..clock import SYSTEM_CLOCK, Clock
from ..message import Record
from .plan import Plan

#: kafka-python gives a record up after this time, and the handler sends it again.
CONFIRM_TIMEOUT_MS = 10_000

#: Seconds until the handler tries again to record a call.
RETRY_S = 1.0

logger = logging.getLogger(__name__)


class PaymentDeclinedError(Exception):
    """The handler raises this on purpose."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the handler, as the results topic has it.

    Attributes:
        id: the id of the message.
        attempt: which attempt it was.
        failed: whether it raised.
        at_ms: the time of the call in Unix milliseconds.
        call: a name that no other call has, so that a call that was sent twice counts once.
    """

    id: str
    attempt: int
    failed: bool
    at_ms: int
    call: str

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, value: bytes) -> Call:
        return cls(**json.loads(value))


class Handler:
    """Fails as the plan says. It returns or raises only after Kafka has confirmed the record of the call.

    While Kafka is away it waits. If it raised instead, an outage would use up the attempts of messages that the plan
    does not let fail.
    """

    def __init__(self, plan: Plan, producer: Any, topic: str, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._plan = plan
        self._producer = producer
        self._topic = topic
        self._numbers = count(1)
        self._prefix = f"{os.getpid()}-{clock.now_ms():x}"

    def __call__(self, record: Record) -> None:
        message_id = json.loads(record.value or b"{}")["id"]
        failed = self._plan.fails(message_id, record.attempt)
        at_ms = self._clock.now_ms()
        call = f"{self._prefix}-{next(self._numbers)}"
        self._write(Call(message_id, record.attempt, failed, at_ms, call))
        if failed:
            raise PaymentDeclinedError(f"the payment of {message_id} was declined (attempt {record.attempt})")

    def _write(self, call: Call) -> None:
        while True:
            try:
                self._producer.send(self._topic, call.to_json()).get(timeout=2 * CONFIRM_TIMEOUT_MS / 1000)
            except Exception as error:  # noqa: BLE001 - no call may end that is not recorded, whatever the error is
                logger.warning("the call for %s cannot be recorded yet: %s", call.id, error)
                self._clock.sleep(RETRY_S)
            else:
                return
