"""The values of claims and leases: how a claim is named, what it found, and how a lease ends."""

from __future__ import annotations

from dataclasses import dataclass

from .tallies import Tally
from .values import Claimed

#: What a settle does with a message; anything else is the reason of a dead letter.
DONE = "done"
RELEASE = "release"
LOST = "lost"


@dataclass(frozen=True, slots=True)
class ClaimId:
    """Names a claim: asked again, Redis gives the same messages.

    Attributes:
        worker: a name that nobody else has.
        number: it grows with each claim of this worker.
    """

    worker: str
    number: int

    @property
    def token(self) -> str:
        """What its leases are settled with."""
        return f"{self.worker}:{self.number}"


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim found: leased messages, and milliseconds until the next claim finds something (None: nothing
    waits)."""

    messages: list[Claimed]
    next_in_ms: int | None
    #: Lanes that are due, and were not among those that the caller gave.
    unknown: list[str]


@dataclass(frozen=True, slots=True)
class End:
    """The end of a lease.

    Attributes:
        id: the message.
        token: the lease's.
        what: DONE, RELEASE (as if it had not been claimed), LOST (as if the lease had run out), or the reason of a
            dead letter.
        reference: the message's lane reference (see `QueueKeys`), where it is known.
        tally: what is added to counters where the message is done: once for all ends that have this same object.
    """

    id: str
    token: str
    what: str
    reference: str | None = None
    tally: Tally | None = None
