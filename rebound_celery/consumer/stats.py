"""The counts of a consumer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStats:
    """Counts since the consumer was made. `total == succeeded + retried + dead + dropped + errors` holds at every
    moment.

    Attributes:
        succeeded: the handler returned.
        retried: the handler raised, and the retry is stored.
        dead: the handler raised for the last time, and the dead letter is stored.
        dropped: the handler raised, and its policy or the handler itself drops the record.
        errors: records let go before they were finished or stored: their handler hung at the stop, their partition
            went to another consumer, or Redis was away to the end. They stay uncommitted and are consumed again.
        skipped: retries that are for another consumer group, batches that could not be read and were passed over, and
            records that an earlier consumer of the group had done. They are in no other count.
    """

    succeeded: int = 0
    retried: int = 0
    dead: int = 0
    dropped: int = 0
    errors: int = 0
    skipped: int = 0

    @property
    def total(self) -> int:
        """All records whose outcome is known."""
        return self.succeeded + self.retried + self.dead + self.dropped + self.errors

    @property
    def success_rate(self) -> float:
        """The share of records that succeeded, in per cent; 0.0 when there are none yet."""
        return 100 * self.succeeded / self.total if self.total else 0.0

    @property
    def retry_rate(self) -> float:
        """The share of records that are retried, in per cent; 0.0 when there are none yet."""
        return 100 * self.retried / self.total if self.total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and the rates in per cent with two decimals, under the names of Rebound's Go consumer.

        Dropped records, which that consumer does not know, are in it if there are any.
        """
        dropped = {"DroppedMessages": self.dropped} if self.dropped else {}
        return {
            "TotalMessages": self.total,
            "SuccessfulMessages": self.succeeded,
            "RetriedMessages": self.retried,
            "ErrorMessages": self.errors,
            "DeadMessages": self.dead,
            **dropped,
            "SuccessRate": round(self.success_rate, 2),
            "RetryRate": round(self.retry_rate, 2),
        }

    def to_json(self) -> str:
        """Return `to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)
