"""Brings the rates of the app's settings into Redis, as their lanes come into use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..message import Message
from ..schedule.port import Schedule
from .lanes import RatedLanes, lane_of

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

    def lanes_of(self, messages: Iterable[Message], schedule: Schedule) -> Sequence[str]:
        """The lane of each message. A lane that comes for the first time has its rate in Redis then."""
        if not self._lanes.are_set:
            return [lane_of(message.target) for message in messages]
        names = []
        for lane, rate in map(self._lanes.of, messages):
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
