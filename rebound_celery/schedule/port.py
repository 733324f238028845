"""What other rooms call of the schedule: its values, its Protocols, and the functions that open it.

`install_schedule` is the other way in; no other module of `schedule` is imported from outside.

Times are Unix milliseconds by Redis' clock. Ids and lanes are text, stored messages are bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ..errors import UnknownVersionError
from .store import server_checks
from .store.combining import Combiner
from .store.values import (
    Breaker,
    BreakerChange,
    BreakerRules,
    Claimed,
    Counts,
    DeadEntry,
    DeadPage,
    Entry,
    Lane,
    LaneReport,
    Page,
    Position,
    Unique,
    UniqueEnd,
    Waiting,
)

__all__ = [
    "LOSSES_HEADER",
    "Breaker",
    "BreakerChange",
    "BreakerRules",
    "Claimed",
    "Combiner",
    "Counts",
    "DeadEntry",
    "DeadPage",
    "Entry",
    "Lane",
    "LaneReport",
    "MessageForm",
    "MessageLeases",
    "Page",
    "Position",
    "Schedule",
    "ScheduleOptions",
    "Unique",
    "UniqueEnd",
    "UnknownVersionError",
    "Waiting",
    "is_installed",
    "message_leases",
    "open_schedule",
    "server_checks",
]


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
    """

    leased: Mapping[str, MessageForm | None] = field(default_factory=dict)
    lease_s: float = 30.0
    max_worker_losses: int = 3
    health_file: str | None = None
    dead_letter_ttl_s: float | None = None


class Schedule(Protocol):
    """The schedule of one queue.

    Every method raises what redis-py raises (RedisError, OSError) if Redis is away or refuses.
    """

    @property
    def queue(self) -> str:
        """The queue's name."""

    def enqueue(
        self, entries: Iterable[Entry], *, keep: bool = False, piggybacked: Sequence[Sequence[Any]] = ()
    ) -> int:
        """Store messages; returns how many ids were new.

        An id that is stored already gets the new message, due time and lane, and a lease on it becomes void; with
        `keep` it stays as it is. Entries may come from a generator: Redis works on those sent while the next are made.
        The commands in `piggybacked` are sent in the same round trip, after the entries; their answers are ignored.
        """

    def publish_commands(self, messages: Sequence[tuple[dict[str, Any], Any, str]]) -> list[list[Any]]:
        """The Redis commands, for `piggybacked`, that publish messages of kombu's: (message, Exchange, routing key)."""

    def enqueue_unique(self, entries: Sequence[tuple[Entry, Unique]]) -> list[UniqueEnd]:
        """Store messages of which only one with the same unique key may wait; returns what became of each.

        The answer has an empty event where a message was changed by others all the time, which is not stored then.
        """

    def send_commands(self, commands: Sequence[Sequence[Any]]) -> None:
        """Run the commands that `publish_commands` has made."""

    def cancel(self, *ids: str, leased: bool = False) -> list[bytes]:
        """Remove waiting messages, and with `leased` those that workers hold too; returns their stored forms."""

    def run_now(self, *ids: str) -> int:
        """Make waiting messages due; returns how many there were."""

    def reschedule(self, due_ms: int, *ids: str) -> int:
        """Make waiting messages due at `due_ms`; returns how many there were."""

    def get(self, id: str) -> Waiting | None:  # noqa: A002 - the field's own word
        """The message with this id, waiting or leased; None if there is none."""

    def page(
        self, lane: str | None = None, after: Position | None = None, count: int = 100, *, leased: bool = False
    ) -> Page:
        """Waiting messages, of one lane or of all, by due time; or with `leased` leased ones, by the leases' end."""

    def counts(self) -> Counts:
        """How many messages wait, are leased and are dead, and how many wait in each lane."""

    def stats(self) -> Mapping[str, int]:
        """Counters since the queue was first used; see `docs` for their names."""

    def lanes(self) -> list[Lane]:
        """The lanes in which messages wait, and those that are paused or have a rate."""

    def pause(self, lane: str, until_ms: int) -> None:
        """Let no worker claim from this lane until then. A later `pause` replaces an earlier one."""

    def resume(self, lane: str) -> None:
        """End a pause."""

    def set_rate(self, lane: str, per_second: float | None, *, configured: bool = False) -> None:
        """Let all workers together claim at most so many messages a second from this lane; None means no limit.

        With `configured` it is the rate of the app's settings: it changes nothing if it is the same as the last one
        that was configured, so that a rate that was set by hand stays.
        """

    def report(self, reports: Iterable[LaneReport], rules: BreakerRules) -> list[BreakerChange]:
        """Tell the circuit breakers of lanes how deliveries ended; returns for each report what it has changed.

        Failures that are enough open a breaker: the lane is then paused, apart from one probe at a time. A pause and a
        rate that were set with `pause` and `set_rate` are kept beside it.
        """

    def open_breaker(self, lane: str, duration_ms: int | None, rules: BreakerRules) -> None:
        """Open a breaker until it is closed by hand, or until a probe goes out after this time."""

    def close_breaker(self, lane: str, rules: BreakerRules) -> bool:
        """Close a breaker, whatever its state; False if it was closed."""

    def breakers(self) -> list[Breaker]:
        """The circuit breakers that are not closed."""

    def bury(self, letters: Sequence[DeadEntry]) -> None:
        """Keep dead letters. An id that is kept already gets the new letter."""

    def dead(self, after: Position | None = None, count: int = 100) -> DeadPage:
        """Dead letters by the time of their death, the oldest first."""

    def dead_letter(self, id: str) -> DeadEntry | None:  # noqa: A002
        """The dead letter with this id, or None."""

    def remove_dead(self, *ids: str) -> int:
        """Remove dead letters; returns how many there were."""

    def expire_dead(self, age_ms: int, most: int = 1000) -> int:
        """Remove dead letters that are older than `age_ms`, the oldest first and at most `most`; returns how many."""

    def overdue_ms(self) -> int:
        """For how long the first due message has waited for a worker; 0 if none is due. Paused lanes do not count."""

    def unclaimed_ms(self) -> int:
        """For how long messages have been due while no worker has claimed anything, or had no room; 0 if none is due.

        More than some seconds mean that no worker consumes the queue, or that none of them does its work.
        """

    def purge(self) -> int:
        """Remove all waiting and leased messages; returns how many there were. Dead letters stay."""

    def server_info(self) -> dict[str, Any]:
        """What the Redis server tells of itself (INFO)."""

    def ping(self) -> None:
        """Ask Redis for an answer."""


@runtime_checkable
class MessageLeases(Protocol):
    """Leases on delivered messages of one channel."""

    def end(self, delivery_tags: Collection[str]) -> set[str]:
        """Settle messages as done, all at once, from any thread; returns the tags on which there is no lease."""

    def let_go(self, delivery_tags: Collection[str]) -> set[str]:
        """Stop holding messages that were stored anew, or removed, since they were delivered; returns their tags.

        While Redis is away it returns none.
        """

    def in_doubt(self) -> bool:
        """Whether leases may have run out here: this process, or its machine, has stood still, or Redis was away."""

    def count_loss(self, delivery_tag: str) -> None:
        """A worker was lost with this message: if it is given back now, that counts."""


def open_schedule(app: Any, queue: str) -> AbstractContextManager[Schedule]:
    """The schedule of a queue over a new connection to the app's broker, with time-outs.

    Whoever calls often keeps it open, and leaves it after an error: the schedule keeps one socket, so that it must not
    be used by two threads at once, nor after a fork.

    Raises:
        UnreachableError: if the app's broker is not Redis. Nothing is connected before the first call.
    """
    from .transport.opening import open_schedule

    return open_schedule(app, queue)


def is_installed(app: Any) -> bool:
    """Whether `install_schedule` was called for an app."""
    from .transport.installed import is_installed

    return is_installed(app)


def message_leases(message: Any) -> MessageLeases:
    """The leases of the channel that delivered a message of kombu's; of another transport, one that has none."""
    from .transport.message_leases import message_leases

    return message_leases(message)
