"""What the schedule in memory has of circuit breakers and of the health of endpoints: all is well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from ..clock import Clock
from ..schedule.port import Breaker, BreakerChange, BreakerRules, Health, HealthReport, LaneReport


class Unfailing:
    """The methods of `schedule.port.Schedule` for breakers and endpoints.

    Args:
        clock: tells the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def report(self, reports: Iterable[LaneReport], rules: BreakerRules) -> list[BreakerChange]:
        return [BreakerChange("", None, self._clock.now_ms()) for _ in reports]

    def open_breaker(self, lane: str, duration_ms: int | None, rules: BreakerRules) -> NoReturn:
        raise NotImplementedError("the schedule in memory has no circuit breakers: use `running`, or pause the lane")

    def close_breaker(self, lane: str, rules: BreakerRules) -> bool:
        return False

    def breakers(self) -> list[Breaker]:
        return []

    def report_health(self, reports: Sequence[HealthReport]) -> list[Health]:
        return [Health() for _ in reports]

    def health(self, names: Sequence[str]) -> list[Health]:
        return [Health() for _ in names]

    def unhealthy(self) -> Mapping[str, Health]:
        return {}

    def clear_health(self, name: str) -> bool:
        return False
