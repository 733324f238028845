"""Lanes: the part of rebound's queue that belongs to one destination. Only this module makes and reads their names."""

from __future__ import annotations

from typing import assert_never
from urllib.parse import urlsplit

from ..caching import cached
from ..message.address import Address, DeadSetAddress, HttpAddress, KafkaAddress

_KAFKA = "kafka"
_HTTP = "http"
_DEAD = "dead"

#: Kinds of destinations whose deliveries take so long that they must not hold up the others.
_SLOW = frozenset({_HTTP})

_PORTS = {"http": 80, "https": 443}


@cached
def lane_of(address: Address) -> str:
    """The lane of the messages that go to `address`.

    `kafka:orders` for a topic, with the brokers where they are not the app's own (`kafka:k1:9092/orders`);
    `http:shop.example:443` for all URLs of a host; `dead` for the dead set in Redis.
    """
    if isinstance(address, KafkaAddress):
        brokers = "" if address.brokers is None else f"{address.brokers}/"
        return f"{_KAFKA}:{brokers}{address.topic}"
    if isinstance(address, HttpAddress):
        parts = urlsplit(address.url)
        return f"{_HTTP}:{parts.hostname}:{parts.port or _PORTS[parts.scheme]}"
    if isinstance(address, DeadSetAddress):
        return _DEAD
    # Pauses and limits of a lane hold for one destination: a new kind of address needs a lane of its own.
    assert_never(address)


def is_slow(lane: str) -> bool:
    """Whether deliveries of this lane take so long that they must not hold up those of other lanes."""
    return lane.partition(":")[0] in _SLOW


def has_breaker(lane: str) -> bool:
    """Whether deliveries of this lane are counted for a circuit breaker. Redis has none: what waits, waits there."""
    return lane != _DEAD
