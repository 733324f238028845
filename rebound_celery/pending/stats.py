"""The numbers of a queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..schedule.port import Counts, Schedule


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a queue's schedule at one moment.

    Attributes:
        queue: its name.
        waiting: how many entries wait.
        leased: how many workers hold.
        behind: how many messages wait behind the head of a chain (consumers with `ordering`).
        dead: how many dead letters Redis keeps.
        overdue_ms: for how long the first due entry has waited for a worker; 0 if none is due. Paused lanes do not
            count.
        unclaimed_ms: for how long entries are due and no worker has claimed any; some seconds mean that none works.
        lanes: lane -> how many entries wait in it.
        disabled_endpoints: how many HTTP endpoints are disabled.
        counters: counts since the queue was first used; `docs/architecture.md` has their names.
    """

    queue: str
    waiting: int
    leased: int
    behind: int
    dead: int
    overdue_ms: int
    unclaimed_ms: int
    lanes: Mapping[str, int]
    disabled_endpoints: int
    counters: Mapping[str, int]

    @classmethod
    def read(cls, queue: str, schedule: Schedule, counts: Counts) -> QueueStats:
        """Ask Redis for the numbers that `counts` does not have."""
        return cls(
            queue=queue,
            waiting=counts.waiting,
            leased=counts.leased,
            behind=counts.behind,
            dead=counts.dead,
            overdue_ms=schedule.overdue_ms(),
            unclaimed_ms=schedule.unclaimed_ms(),
            lanes=dict(counts.by_lane),
            disabled_endpoints=sum(1 for health in schedule.unhealthy().values() if health.disabled_ms),
            counters=dict(schedule.stats()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, with stable keys."""
        return msgspec.structs.asdict(self)
