"""How an app uses the schedule: its options, how what waits in a leased queue is read, and the leases on messages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from .store.tallies import Tally
from .store.values import Claimed

#: The header that tells how many workers were lost while they held a message; missing for none.
LOSSES_HEADER = "rebound-losses"


class MessageForm(Protocol):
    """Reads what the owner of a leased queue has stored."""

    def open(self, claimed: Claimed) -> dict[str, Any]:
        """Make the message that kombu delivers: `body`, `headers`, `properties`, `content-type`, `content-encoding`.

        The schedule adds the delivery tag, and the header `rebound-losses` where workers were lost with the message.

        Raises:
            UnknownVersionError: a later version stored it; the schedule leaves it in place.
            ValueError: it is damaged; the schedule makes it a dead letter with the reason "unreadable".
        """

    def task_ids_of(self, id: str) -> Iterable[str]:  # noqa: A002 - the field's own word
        """Ids under which messages may be stored that people know by `id`, beside `id` itself; `revoke` looks for
        them."""


@runtime_checkable
class MessageLeases(Protocol):
    """Leases on delivered messages of one channel."""

    def end(self, delivery_tags: Collection[str], tally: Tally | None = None) -> set[str]:
        """Settle messages as done, all at once, from any thread; returns the tags on which there is no lease.

        `tally` is added to the counters in the same step, once for all, if any of the leases has not run out.
        """

    def let_go(self, delivery_tags: Collection[str]) -> set[str]:
        """Stop holding messages that were stored anew, or removed, since they were delivered; returns their tags.

        While Redis is away it returns none.
        """

    def in_doubt(self) -> bool:
        """Whether leases may have run out here: this process, or its machine, has stood still, or Redis was away."""

    def count_lost_worker(self, delivery_tag: str) -> None:
        """Add one to the counter of lost workers: the process of the pool that worked on this message is gone."""

    def count_loss(self, delivery_tag: str) -> None:
        """A worker was lost with this message: if it is given back now, that counts."""


@dataclass(frozen=True, slots=True)
class ScheduleOptions:
    """How an app uses the schedule.

    Attributes:
        leased: queues whose messages all go through the schedule, each with the form of what its owner stores. A
            message there that has Celery's own form (a task that a user routed to the queue) is read as such. The form
            None means that all of them are Celery's own.
        lease_s: how long a worker's claim on a message lasts unless it is renewed, in seconds.
        max_worker_losses: so many workers may be lost with a message before it is a dead letter. The owner of a leased
            queue is still given its own message then, with the number of losses, to make the dead letter itself; the
            schedule does it after twice as many.
        health_file: where each worker writes its state; None writes none.
        dead_letter_ttl_s: after how many seconds workers remove the dead letters of leased queues; None means never.
        closes_breakers: whether workers close the circuit breakers of leased queues, because nobody tells them how
            deliveries end.
    """

    leased: Mapping[str, MessageForm | None] = field(default_factory=dict)
    lease_s: float = 30.0
    max_worker_losses: int = 3
    health_file: str | None = None
    dead_letter_ttl_s: float | None = None
    closes_breakers: bool = False
