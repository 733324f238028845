"""A worker's claim on one message."""

from __future__ import annotations

from dataclasses import dataclass

from ..store.claims import End
from ..store.store import Store
from ..store.tallies import Tally
from ..store.values import Claimed


@dataclass(slots=True, eq=False)
class Lease:
    """A message that this process holds."""

    store: Store
    queue: str
    id: str
    token: str
    reference: str
    task_id: str
    size_bytes: int

    def end(self, what: str, tally: Tally | None = None) -> End:
        """The end of it, as the store takes it."""
        return End(self.id, self.token, what, self.reference, tally)


def reference_of(claimed: Claimed) -> str:
    """The reference of the lane of a message."""
    return f"{claimed.priority}{claimed.lane}"
