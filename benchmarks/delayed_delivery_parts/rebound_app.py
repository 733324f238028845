"""Puts Rebound on a benchmark's app, with the destination for the measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from celery import Celery

from rebound_celery import Rebound
from rebound_celery.delivery.opened import Destinations
from rebound_celery.destinations import Delivered, Destination, Outcome
from rebound_celery.message import Message

from .notes import note

QUEUE = "rebound"


class Nowhere:
    """A destination that confirms every message at once. So only the cost before the destination is measured."""

    def __init__(self, _kafka: Destination) -> None:
        pass

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        return [Delivered("nowhere")] * len(messages)

    def close(self) -> None:
        pass


class Timed:
    """Kafka, with a note of each message's due time and of the time of Kafka's confirmation."""

    def __init__(self, kafka: Destination) -> None:
        self._kafka = kafka

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        outcomes = self._kafka.send(messages)
        confirmed = time.time()
        note((int(message.value or b"0") / 1000, confirmed) for message in messages)
        return outcomes

    def close(self) -> None:
        self._kafka.close()


class Busy:
    """Kafka, with a note for each message of the start of its sending and of the time of Kafka's confirmation."""

    def __init__(self, kafka: Destination) -> None:
        self._kafka = kafka

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        began = time.time()
        outcomes = self._kafka.send(messages)
        note([(began, time.time())] * len(messages))
        return outcomes

    def close(self) -> None:
        self._kafka.close()


#: kind of app -> the destination in place of Kafka.
KINDS: dict[str, Callable[[Destination], Destination]] = {
    "rebound": lambda kafka: kafka,
    "rebound-nowhere": Nowhere,
    "rebound-timed": Timed,
    "rebound-busy": Busy,
}


def add_rebound(app: Celery, kind: str, kafka: str, kafka_client: str) -> None:
    """Put Rebound on the app, with the destination for this kind of app."""

    class Measured(Rebound):
        """Rebound with another destination in place of Kafka."""

        def _build_destinations(self) -> Destinations:
            built = super()._build_destinations()
            return {**built, "kafka": KINDS[kind](built["kafka"])}

    given = {"kafka_brokers": kafka, "kafka_client": kafka_client}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value}
    Measured(app, queue=QUEUE, **settings)
