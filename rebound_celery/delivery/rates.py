"""Brings the rates of the app's settings into Redis, as their lanes come into use."""

from __future__ import annotations

from collections.abc import Sequence

from ..schedule.port import Schedule
from .delivery import Delivery
from .lanes import RatedLanes

#: How many lanes are remembered.
_LANES = 4096


class Rates:
    """The rates that were brought into Redis over the present connection.

    Args:
        lanes: the lanes of messages, and their rates.
    """

    def __init__(self, lanes: RatedLanes) -> None:
        self._lanes = lanes
        self._brought: set[str] = set()

    def lanes_of(self, deliveries: Sequence[Delivery], schedule: Schedule) -> Sequence[str]:
        """The lane of each delivery. A lane that comes for the first time has its rate in Redis then.

        A lane in which a delivery is held has the rate of the one from which it comes, for when it is let go.
        """
        if not self._lanes.are_set:
            return [delivery.lane for delivery in deliveries]
        names = []
        for delivery in deliveries:
            if delivery.ended is not None:
                names.append(delivery.lane)
                continue
            lane, rate = self._lanes.of(delivery.message)
            if delivery.held_in is not None:
                lane = delivery.held_in
            if lane not in self._brought:
                schedule.set_rate(lane, rate, configured=True)
                if len(self._brought) >= _LANES:
                    self._brought.clear()
                self._brought.add(lane)
            names.append(lane)
        return names

    def forget(self) -> None:
        """Bring all rates again: the next connection may lead to another Redis."""
        self._brought.clear()
