"""Brings the rates of the app's settings into Redis, as their lanes come into use."""

from __future__ import annotations

from collections.abc import Sequence

from ..clock import Clock
from ..schedule.port import Schedule
from .delivery import Delivery
from .lanes import RatedLanes

#: How many lanes are remembered.
_LANES = 4096

#: After how many seconds a rate is brought again. Meanwhile Redis may have lost its data.
_AGAIN_S = 30.0


class Rates:
    """The rates that were brought into Redis over the present connection.

    Args:
        lanes: the lanes of messages, and their rates.
        clock: tells the time.
    """

    def __init__(self, lanes: RatedLanes, clock: Clock) -> None:
        self._lanes = lanes
        self._clock = clock
        #: Lane -> until when its rate counts as brought, by the monotonic clock.
        self._brought: dict[str, float] = {}

    def lanes_of(self, deliveries: Sequence[Delivery], schedule: Schedule) -> Sequence[str]:
        """The lane of each delivery. A lane that comes for the first time, or again after 30 s, has its rate in Redis.

        A lane in which a delivery is held has the rate of the one from which it comes, for when it is let go.
        """
        if not self._lanes.are_set:
            return [delivery.lane for delivery in deliveries]
        names = []
        now = self._clock.monotonic()
        for delivery in deliveries:
            if delivery.ended is not None:
                names.append(delivery.lane)
                continue
            lane, rate = self._lanes.of(delivery.message)
            if delivery.held_in is not None:
                lane = delivery.held_in
            if self._brought.get(lane, 0.0) <= now:
                schedule.set_rate(lane, rate, configured=True)
                if len(self._brought) >= _LANES:
                    self._brought.clear()
                self._brought[lane] = now + _AGAIN_S
            names.append(lane)
        return names

    def forget(self) -> None:
        """Bring all rates again: the next connection may lead to another Redis."""
        self._brought.clear()
