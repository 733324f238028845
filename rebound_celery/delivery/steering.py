"""Lanes and circuit breakers as people see and steer them from Python: `app.rebound.lanes`, `app.rebound.breakers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from ..clock import Clock
from ..config import Settings
from ..errors import InvalidSettingError
from ..message.address import Address, parse_address
from ..schedule.port import Breaker, BreakerRules, Lane, Schedule
from .lanes import is_lane, lane_of, normal_lane
from .outage_mode import rules_of

#: What names a lane: a destination as `schedule_retry` takes it, or the lane's own name, such as `kafka:orders`.
Destination = str | Mapping[str, object] | Address

#: The longest pause, in seconds: ten years.
_LONGEST_S = 10 * 365 * 86_400

_DESTINATION_RULE = (
    "it is a destination (kafka://topic, https://host/path), or the name of a lane (kafka:topic, http:host:port, or "
    "jobs for the steps of jobs)"
)

_Open = Callable[[], AbstractContextManager[Schedule]]


class Lanes:
    """The lanes in which messages wait: one for each Kafka topic, and for each host of HTTP receivers.

    Iterate over it to get the lanes in which messages wait, and those with a pause or a rate. Each method takes a
    destination (`kafka://orders`, `https://api.example.com/`), or the name of a lane as a `Lane` has it.

    Args:
        open_schedule: opens the schedule of rebound's queue.
        clock: tells the time.
    """

    def __init__(self, open_schedule: _Open, clock: Clock) -> None:
        self._open = open_schedule
        self._clock = clock

    def __iter__(self) -> Iterator[Lane]:
        with self._open() as schedule:
            lanes = schedule.lanes()
        return iter(lanes)

    def get(self, destination: Destination) -> Lane | None:
        """The lane of a destination; None if nothing waits there and it has neither pause nor rate."""
        name = lane_name(destination)
        return next((lane for lane in self if lane.name == name), None)

    def pause(self, destination: Destination, seconds: float) -> None:
        """Deliver nothing to a destination for so long. A later pause replaces an earlier one.

        Raises:
            InvalidSettingError: if `seconds` is not above 0, or more than ten years.
        """
        until_ms = self._clock.now_ms() + _milliseconds(seconds)
        with self._open() as schedule:
            schedule.pause(lane_name(destination), until_ms)

    def resume(self, destination: Destination) -> None:
        """End a pause. A circuit breaker that is open stays open."""
        with self._open() as schedule:
            schedule.resume(lane_name(destination))

    def set_rate(self, destination: Destination, per_second: float | None) -> None:
        """Let all workers together deliver at most so many messages a second to a destination; None for no limit.

        Raises:
            InvalidSettingError: if `per_second` is not above 0, or more than 1,000,000.
        """
        is_number = isinstance(per_second, int | float) and not isinstance(per_second, bool)
        if per_second is not None and not (is_number and 0 < per_second <= 1e6):
            raise InvalidSettingError("per_second", per_second, "it is above 0, at most 1,000,000; None for no limit")
        with self._open() as schedule:
            schedule.set_rate(lane_name(destination), per_second)


class Breakers:
    """The circuit breakers of destinations.

    Iterate over it to get those that are not closed. Each method takes a destination (`kafka://orders`,
    `https://api.example.com/`), or the name of a lane as a `Breaker` has it.

    Args:
        open_schedule: opens the schedule of rebound's queue.
        read_settings: gives the app's settings.
    """

    def __init__(self, open_schedule: _Open, read_settings: Callable[[], Settings]) -> None:
        self._open = open_schedule
        self._read_settings = read_settings

    def __iter__(self) -> Iterator[Breaker]:
        with self._open() as schedule:
            breakers = schedule.breakers()
        return iter(breakers)

    def get(self, destination: Destination) -> Breaker | None:
        """The breaker of a destination; None if it is closed."""
        name = lane_name(destination)
        return next((breaker for breaker in self if breaker.lane == name), None)

    def open(self, destination: Destination, seconds: float | None = None) -> None:
        """Open a breaker: until it is closed by hand, or until a probe goes out after this time.

        Raises:
            InvalidSettingError: if the app has no circuit breakers, or `seconds` is not above 0.
        """
        rules, name = self._rules(), lane_name(destination)
        duration_ms = None if seconds is None else _milliseconds(seconds)
        with self._open() as schedule:
            schedule.open_breaker(name, duration_ms, rules)

    def close(self, destination: Destination) -> bool:
        """Close a breaker, and deliver at once all that waits; False if it was closed."""
        rules = rules_of(self._read_settings())
        with self._open() as schedule:
            return schedule.close_breaker(lane_name(destination), rules)

    def _rules(self) -> BreakerRules:
        settings = self._read_settings()
        if settings.breaker is None:
            rule = "the app has no circuit breakers: set it to True, or pause the destination with lanes.pause"
            raise InvalidSettingError("rebound_breaker", None, rule)
        return rules_of(settings)


def lane_name(destination: Destination) -> str:
    """The name of a destination's lane. The name of a lane is returned in its normal form.

    Raises:
        InvalidSettingError: if it is neither a destination nor the name of a lane.
    """
    if not isinstance(destination, str):
        return lane_of(parse_address(destination))
    if is_lane(destination):
        try:
            return normal_lane(destination)
        except ValueError as error:
            raise InvalidSettingError("destination", destination, str(error)) from None
    if "://" not in destination:
        # A bare name would be a lane of its own, in which nothing ever waits.
        raise InvalidSettingError("destination", destination, _DESTINATION_RULE)
    return lane_of(parse_address(destination))


def _milliseconds(seconds: object) -> int:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= _LONGEST_S:  # type: ignore[operator]
        raise InvalidSettingError("seconds", seconds, f"it is a number above 0, at most {_LONGEST_S:,}")
    return max(1, round(seconds * 1000))  # type: ignore[operator]
