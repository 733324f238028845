"""Lanes: the part of rebound's queue that belongs to one destination. Only this module makes and reads their names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import assert_never

from ..caching import cached
from ..limits import RateRule
from ..message import Message
from ..message.address import Address, DeadSetAddress, HttpAddress, KafkaAddress, endpoint_lane
from ..urls.http_url import read_http_url

_KAFKA = "kafka"
_HTTP = "http"
_DEAD = "dead"

#: The lane of deliveries that have ended and are not settled yet. Nothing is sent for them, so neither a pause nor a
#: rate nor a circuit breaker of their destination holds them up.
ENDED = "ended"

#: The lane of the steps of jobs, see `jobs.step`: a pause of it pauses all jobs.
STEPS = "jobs"

#: Kinds of destinations whose deliveries take so long that they must not hold up the others.
_SLOW = frozenset({_HTTP})


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
        return f"{_HTTP}:{address.parts.host}:{address.parts.port}"
    if isinstance(address, DeadSetAddress):
        return _DEAD
    # Pauses and limits of a lane hold for one destination: a new kind of address needs a lane of its own.
    assert_never(address)


def is_lane(text: str) -> bool:
    """Whether a text has the form of a lane's name."""
    kind, colon, rest = text.partition(":")
    return text in (_DEAD, ENDED, STEPS) or (
        kind in (_KAFKA, _HTTP) and bool(colon and rest) and not rest.startswith("//")
    )


def normal_lane(name: str) -> str:
    """The name of a lane as `lane_of` makes it, where people write its host or its URL in another way.

    Raises:
        ValueError: if there is no such lane.
    """
    kind, _, rest = name.partition(":")
    if kind != _HTTP:
        return name
    place, bar, part = rest.partition("|")
    if "://" in place:
        return endpoint_lane(read_http_url(place).endpoint) + bar + part
    host, colon, port = place.rpartition(":")
    if not colon or not port:
        raise ValueError("the lane of a host is http:host:port")
    url = read_http_url(f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/")
    return f"{_HTTP}:{url.host}:{url.port}{bar}{part}"


def endpoint_of(lane: str) -> str | None:
    """The HTTP endpoint to which a lane belongs; None for another lane, such as that of a whole host."""
    kind, _, rest = lane.partition(":")
    place = rest.partition("|")[0]
    return place if kind == _HTTP and "://" in place else None


def is_of_lane(lane: str, whole: str) -> bool:
    """Whether a lane is this one, or the part of it that a rate rule has made; see `RatedLanes`."""
    return lane == whole or lane.startswith(f"{whole}|")


def is_slow(lane: str) -> bool:
    """Whether deliveries of this lane take so long that they must not hold up those of other lanes."""
    return lane.partition(":")[0] in _SLOW


def has_breaker(lane: str) -> bool:
    """Whether deliveries of this lane are counted for a circuit breaker. Redis has none: what waits, waits there."""
    return lane != _DEAD


class RatedLanes:
    """The lanes of messages where the app's settings say rates: messages of a rule may have a lane of their own.

    A rule for all messages of a lane gives the lane its rate. A rule for some of them, by key or by path, gives these a
    lane whose name has the rule after a bar: `kafka:orders|key=tenant-7:*`.

    Args:
        read_rules: gives the rules in their order, of which the first that fits a message counts; None for none.
    """

    def __init__(self, read_rules: Callable[[], Sequence[RateRule] | None]) -> None:
        self._read_rules = read_rules
        self._choices: Callable[..., tuple[tuple[RateRule, str], ...]] = cached(self._choices_of)

    @cached_property
    def _rules(self) -> Sequence[RateRule]:
        return self._read_rules() or ()

    @cached_property
    def are_set(self) -> bool:
        """Whether the settings say anything of rates, if only that there are none."""
        return self._read_rules() is not None

    def of(self, message: Message) -> tuple[str, float | None]:
        """The lane of a message, and the lane's rate; None for no limit."""
        if not self._rules:
            return lane_of(message.target), None
        for rule, lane in self._choices(message.target):
            if rule.takes(message.key):
                return lane, rule.rate
        return lane_of(message.target), None

    def _choices_of(self, address: Address) -> tuple[tuple[RateRule, str], ...]:
        """The rules for this address, each with the lane of its messages."""
        text, lane = _text_of(address), lane_of(address)
        return tuple((rule, f"{lane}|{rule.part}" if rule.part else lane) for rule in self._rules if rule.is_for(text))


def _text_of(address: Address) -> str:
    """The text of an address that the patterns of rules are for."""
    if isinstance(address, KafkaAddress):
        return f"kafka://{address.topic}" if address.brokers is None else f"kafka://{address.brokers}/{address.topic}"
    if isinstance(address, HttpAddress):
        return address.parts.endpoint
    return str(address)
