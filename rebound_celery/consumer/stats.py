"""What a consumer has done so far, as a snapshot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from operator import attrgetter
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStats:
    """Counts since the consumer was made. `total == successful + retried + dead + errors` holds at every moment.

    Attributes:
        successful: the handler returned.
        retried: the handler raised, and the retry is stored.
        dead: the handler raised for the last time, and the dead letter is stored.
        errors: records let go before they were finished or stored: their handler hung at the stop, their partition
            went to another consumer, or Redis was away to the end. They stay uncommitted and are consumed again.
        skipped: retries that are for another consumer group, and batches that could not be read and were passed over;
            they are in no other count.
    """

    successful: int = 0
    retried: int = 0
    dead: int = 0
    errors: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        """All records whose outcome is known."""
        return self.successful + self.retried + self.dead + self.errors

    @property
    def success_rate(self) -> float:
        """Successful ones of all, in per cent; 0.0 when there are none yet."""
        return 100 * self.successful / self.total if self.total else 0.0

    @property
    def retry_rate(self) -> float:
        """Retried ones of all, in per cent; 0.0 when there are none yet."""
        return 100 * self.retried / self.total if self.total else 0.0

    # The names that the Go consumer of Rebound prints.
    TotalMessages = property(attrgetter("total"))
    SuccessfulMessages = property(attrgetter("successful"))
    RetriedMessages = property(attrgetter("retried"))
    ErrorMessages = property(attrgetter("errors"))
    DeadMessages = property(attrgetter("dead"))

    def to_dict(self) -> dict[str, Any]:
        """The counts and, in per cent with two decimals, the rates."""
        return {
            "TotalMessages": self.total,
            "SuccessfulMessages": self.successful,
            "RetriedMessages": self.retried,
            "ErrorMessages": self.errors,
            "DeadMessages": self.dead,
            "SuccessRate": round(self.success_rate, 2),
            "RetryRate": round(self.retry_rate, 2),
        }

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)
