"""What other parts call of the schedule: its values, its Protocols, and the functions that open it.

`install_schedule` is the other way in; no other module of `schedule` is imported from outside.
Times are Unix milliseconds by Redis' clock. Ids and lanes are text, stored messages are bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..errors import UnknownVersionError
from .options import LOSSES_HEADER, MessageForm, MessageLeases, ScheduleOptions
from .store import server_checks
from .store.chains import Answer, Chain, Do, Member, Step
from .store.combining import Combiner
from .store.health import Health, HealthReport
from .store.interfaces import DeadLetterSchedule, HealthSchedule, Jobs
from .store.jobs import Changed, JobClaim, JobRow, StepMessage, StepOverError
from .store.measuring import Measured, MeasuredLane
from .store.tallies import Tally
from .store.values import (
    Breaker,
    BreakerChange,
    BreakerRules,
    Claimed,
    Counts,
    DeadEntry,
    DeadPage,
    Entry,
    Hold,
    Lane,
    LaneReport,
    Page,
    Position,
    Revival,
    Unique,
    UniqueEnd,
    Waiting,
)

__all__ = [
    "LOSSES_HEADER",
    "Answer",
    "Breaker",
    "BreakerChange",
    "BreakerRules",
    "Chain",
    "Changed",
    "Claimed",
    "Combiner",
    "Counts",
    "DeadEntry",
    "DeadPage",
    "Do",
    "Entry",
    "Health",
    "HealthReport",
    "Hold",
    "JobClaim",
    "JobRow",
    "Jobs",
    "Lane",
    "LaneReport",
    "Measured",
    "MeasuredLane",
    "Member",
    "MessageForm",
    "MessageLeases",
    "Page",
    "Position",
    "Revival",
    "Schedule",
    "ScheduleOptions",
    "Step",
    "StepMessage",
    "StepOverError",
    "Tally",
    "Unique",
    "UniqueEnd",
    "UnknownVersionError",
    "Waiting",
    "is_installed",
    "message_leases",
    "open_schedule",
    "put_on_list",
    "read_tasks",
    "server_checks",
    "stored_task",
    "tell_revoked",
]


class Schedule(DeadLetterSchedule, HealthSchedule, Protocol):
    """The schedule of one queue.

    Every method raises what redis-py raises (RedisError, OSError) if Redis is away or refuses.
    """

    @property
    def queue(self) -> str:
        """The queue's name."""

    def enqueue(
        self,
        entries: Iterable[Entry],
        *,
        keep: bool = False,
        piggybacked: Sequence[Sequence[Any]] = (),
        hold: Hold | None = None,
        tally: Tally | None = None,
    ) -> int:
        """Store messages; returns how many ids were new.

        An id that is stored already gets the new message, due time and lane, and a lease on it becomes void; with
        `keep` it stays as it is. With `hold` messages do not wait, or cease to be held: see `Hold`. Entries may come
        from a generator: Redis works on those sent while the next are made. The commands in `piggybacked` are sent in
        the same round trip, after the entries; their answers are ignored. `tally` is added to the counters in the same
        step, with the first entries.
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

    def cancel_each(self, *ids: str) -> dict[str, bytes]:
        """Remove waiting messages; returns the stored forms of those that were removed, by their ids."""

    def run_now(self, *ids: str) -> int:
        """Make waiting messages due; returns how many there were."""

    def reschedule(self, due_ms: int, *ids: str) -> int:
        """Make waiting messages due at `due_ms`; returns how many there were."""

    def get(self, id: str) -> Waiting | None:  # noqa: A002 - the field's own word
        """The message with this id, waiting or leased; None if there is none."""

    def known(self, ids: Sequence[str]) -> list[str]:
        """Those of these ids under which a message waits or is leased."""

    def page(
        self, lane: str | None = None, after: Position | None = None, count: int = 100, *, leased: bool = False
    ) -> Page:
        """Waiting messages, of one lane or of all, by due time; or with `leased` leased ones, by the leases' end."""

    def counts(self) -> Counts:
        """How many messages wait, are leased and are dead, and how many wait in each lane."""

    def stats(self) -> Mapping[str, int]:
        """Counters since the queue was first used; see `docs` for their names."""

    def measure(self, late_ms: int) -> Measured:
        """What the metrics of the queue need, at once; late is what has been due for longer than `late_ms`."""

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

    def chain(
        self, steps: Sequence[Step], token: str, hold_ms: int, *, piggybacked: Sequence[Sequence[Any]] = ()
    ) -> list[Answer]:
        """Change chains (see `store.chains`), one whole step after the other; returns one answer for each step.

        Args:
            steps: the changes. The steps of one chain belong into one call, in their order.
            token: names this call. With the same token, a call that is repeated gives the same messages.
            hold_ms: for how long the caller has a message that it takes. It can be renewed. Afterwards the schedule
                delivers the message.
            piggybacked: commands that are sent in the same round trip; their answers are ignored.
        """

    def chain_names(self, prefix: str, after: str = "", count: int = 500) -> list[str]:
        """The names of chains that begin with `prefix`, in their order, behind the name `after`."""

    def chains(self, prefix: str = "", after: str = "", count: int = 100) -> list[Chain]:
        """Chains whose names begin with `prefix`, in the order of their names, behind the name `after`."""

    @property
    def jobs(self) -> Jobs:
        """The jobs of this queue."""

    def overdue_ms(self) -> int:
        """For how long the first due message has waited for a worker; 0 if none is due. Paused lanes do not count."""

    def unclaimed_ms(self) -> int:
        """For how long messages are due and no worker has claimed or had no room. Some seconds mean: none works."""

    def purge(self) -> int:
        """Remove all waiting and leased messages; returns how many there were. Dead letters stay."""

    def server_info(self) -> dict[str, Any]:
        """What the Redis server tells of itself (INFO)."""

    def ping(self) -> None:
        """Ask Redis for an answer."""


def open_schedule(app: Any, queue: str, connect_s: float | None = None) -> AbstractContextManager[Schedule]:
    """The schedule of a queue over a new connection to the app's broker, with time-outs.

    Whoever calls often keeps it open, and leaves it after an error: the schedule keeps one socket, so that it must not
    be used by two threads at once, nor after a fork.

    Args:
        app: the Celery app.
        queue: the queue's name.
        connect_s: for how many seconds another try to connect begins; None means as long as Celery's settings say.

    Raises:
        UnreachableError: if the app's broker is not Redis. Nothing is connected before the first call.
    """
    from .transport.opening import open_schedule

    return open_schedule(app, queue, connect_s)


def is_installed(app: Any) -> bool:
    """Whether `install_schedule` was called for an app."""
    from .transport.installed import is_installed

    return is_installed(app)


def message_leases(message: Any) -> MessageLeases:
    """The leases of the channel that delivered a message of kombu's; of another transport, one that has none."""
    from .transport.message_leases import message_leases

    return message_leases(message)


def read_tasks(stored: Sequence[bytes]) -> list[dict[str, Any] | Exception | None]:
    """Return the message of each ordinary Celery task, or why it cannot be read; None for what a leased queue's owner
    has stored."""
    from .transport.forms import read_celerys

    return list(map(read_celerys, stored))


def put_on_list(app: Any, queue: str, entries: Sequence[Waiting], now_ms: int) -> None:
    """Put copies of waiting Celery tasks, with their due times, on the list that workers without a schedule consume."""
    from .transport.handing_back import put_on_list

    put_on_list(app, queue, entries, now_ms)


def stored_task(app: Any, queue: str, task: str, task_id: str, args: Sequence[Any], priority: int) -> bytes:
    """The stored form of an ordinary Celery task that is run at once when a worker claims it."""
    from .transport.task_messages import stored_task

    return stored_task(app, queue, task, task_id, args, priority)


def tell_revoked(app: Any, queue: str, removed: Sequence[Waiting]) -> None:
    """Tell result backend, chords, events and signals of tasks that were removed. It logs what it cannot tell."""
    from .worker.revoked import tell_revoked

    tell_revoked(app, queue, removed)
