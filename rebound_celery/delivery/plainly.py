"""Publishes deliveries to a broker that has no schedule: kombu's memory transport, in tests."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from kombu.common import maybe_declare
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from .delivery import Delivery
from .form import DeliveryForm
from .sent_events import SentEvents

#: What a broker that is away or refuses is met with.
FAULTS = (KombuError, RedisError, OSError)


def publish_plainly(
    app: Any, queue: str, form: DeliveryForm, events: SentEvents, deliveries: Sequence[Delivery], now_ms: int
) -> None:
    """Publish deliveries as Celery messages with an ETA, each with its signals, and then their events."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for delivery in deliveries:
            tell_published = form.before_publish(delivery, now_ms)
            channel.basic_publish(form.as_task(delivery, now_ms), exchange="", routing_key=queue)
            if tell_published is not None:
                tell_published()
        if events.are_wanted():
            with suppress(*FAULTS):  # what the events tell of is published by now
                for event, exchange, key in events.messages(deliveries):
                    maybe_declare(exchange, channel)
                    channel.basic_publish(event, exchange=exchange.name, routing_key=key)
