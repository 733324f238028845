"""The schedule in memory: it has the methods of `schedule.port.Schedule`, and keeps nothing after the test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from msgspec.structs import replace

from ..clock import Clock
from ..schedule.port import (
    Answer,
    Chain,
    Counts,
    Entry,
    Hold,
    Lane,
    Measured,
    MeasuredLane,
    Page,
    Position,
    Step,
    Tally,
    Unique,
    UniqueEnd,
    Waiting,
)
from .chains import MemoryChains
from .dead_letters import MemoryDeadLetters
from .jobs import MemoryJobs
from .unfailing import Unfailing


class MemorySchedule(MemoryDeadLetters, Unfailing):
    """The schedule of one queue in memory, for one thread at a time.

    Pauses hold, and rates are only kept. It has no circuit breakers, all endpoints are well, and nothing is held.

    Args:
        queue: the queue's name.
        clock: tells the time.
    """

    def __init__(self, queue: str, clock: Clock) -> None:
        self._queue = queue
        Unfailing.__init__(self, clock)
        self._messages: dict[str, Waiting] = {}
        self._paused: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._uniques: dict[str, tuple[str, int]] = {}
        self._stats: Counter[str] = Counter()
        self._tallies: dict[str, dict[str, int]] = {}
        MemoryDeadLetters.__init__(self, clock, self._stats)
        self.jobs = MemoryJobs(clock, self.get, self.enqueue, partial(self.cancel, leased=True))
        self._chains = MemoryChains(self.get, self.enqueue, self._unschedule, clock)

    @property
    def queue(self) -> str:
        return self._queue

    @contextmanager
    def opened(self) -> Iterator[MemorySchedule]:
        """Give the schedule, as `open_schedule` does."""
        yield self

    # What a worker does

    def take_due(self) -> list[Waiting]:
        """Lease all messages that are due, the most urgent first."""
        now_ms = self._clock.now_ms()
        due = [
            message
            for message in self._messages.values()
            if not message.leased and message.due_ms <= now_ms and self._paused.get(message.lane, 0) <= now_ms
        ]
        due.sort(key=lambda message: (message.priority, message.due_ms))
        for message in due:
            self._messages[message.id] = replace(message, leased=True)
        self._stats["claimed"] += len(due)
        return due

    def settle(self, id: str) -> None:  # noqa: A002 - the field's own word
        """Remove a leased message, unless it was stored anew since."""
        if (message := self._messages.get(id)) is not None and message.leased:
            del self._messages[id]
            self._stats["done"] += 1

    def release(self, id: str) -> None:  # noqa: A002
        """Let a leased message wait again."""
        self._messages[id] = replace(self._messages[id], leased=False)

    def next_due_ms(self) -> int | None:
        """When the next message can be taken, in Unix milliseconds; None if none waits."""
        return min((max(m.due_ms, self._paused.get(m.lane, 0)) for m in self._waiting()), default=None)

    # As in the Protocol

    def enqueue(
        self,
        entries: Iterable[Entry],
        *,
        keep: bool = False,
        piggybacked: Sequence[Sequence[Any]] = (),
        hold: Hold | None = None,
        tally: Tally | None = None,
    ) -> int:
        new = 0
        for entry in entries:
            is_new = entry.id not in self._messages
            new += is_new
            if is_new or not keep:
                self._messages[entry.id] = Waiting(
                    entry.id, entry.due_ms, entry.stored, entry.lane, entry.priority, 0, leased=False
                )
        self._stats["stored"] += new
        self._count(tally)
        return new

    def _count(self, tally: Tally | None) -> None:
        for field, (_, number) in () if tally is None else tally.counts.items():
            metric, _, labels = field.partition("|")
            of_metric = self._tallies.setdefault(metric, {})
            of_metric[labels] = of_metric.get(labels, 0) + number

    def publish_commands(self, messages: Sequence[tuple[dict[str, Any], Any, str]]) -> list[list[Any]]:
        return []

    def send_commands(self, commands: Sequence[Sequence[Any]]) -> None: ...

    def enqueue_unique(self, entries: Sequence[tuple[Entry, Unique]]) -> list[UniqueEnd]:
        ends = []
        for entry, unique in entries:
            now_ms = self._clock.now_ms()
            earlier_id, first_ms = self._uniques.get(unique.key, ("", now_ms))
            earlier = self._messages.get(earlier_id)
            if earlier is None or earlier.leased:
                due_ms = unique.due_ms(entry.due_ms, now_ms)
                self.enqueue([Entry(entry.id, due_ms, entry.stored, entry.lane, entry.priority)])
                self._uniques[unique.key] = entry.id, now_ms
                ends.append(UniqueEnd(entry.id, "stored"))
            elif unique.how == "keep":
                ends.append(UniqueEnd(earlier_id, "kept"))
            else:
                due_ms = unique.due_ms(entry.due_ms, first_ms) if unique.how == "extend" else earlier.due_ms
                self.enqueue([Entry(earlier_id, due_ms, entry.stored, entry.lane, entry.priority)])
                ends.append(UniqueEnd(earlier_id, "replaced"))
        return ends

    def cancel(self, *ids: str, leased: bool = False) -> list[bytes]:
        found = [message for message in self._found(ids) if leased or not message.leased]
        for message in found:
            self._chains.left(message.id, is_dead=False)
            del self._messages[message.id]
        self._stats["cancelled"] += len(found)
        return [message.stored for message in found]

    def cancel_each(self, *ids: str) -> dict[str, bytes]:
        return {name: stored for name in ids for stored in self.cancel(name)}

    def run_now(self, *ids: str) -> int:
        return self.reschedule(self._clock.now_ms(), *ids)

    def reschedule(self, due_ms: int, *ids: str) -> int:
        found = [message for message in self._found(ids) if not message.leased]
        for message in found:
            self._messages[message.id] = replace(message, due_ms=due_ms)
        return len(found)

    def get(self, id: str) -> Waiting | None:  # noqa: A002 - the field's own word
        return self._messages.get(id)

    def known(self, ids: Sequence[str]) -> list[str]:
        return [name for name in dict.fromkeys(ids) if name in self._messages]

    def page(
        self, lane: str | None = None, after: Position | None = None, count: int = 100, *, leased: bool = False
    ) -> Page:
        entries = sorted(
            (m for m in self._messages.values() if m.leased == leased and lane in (None, m.lane)),
            key=lambda message: (message.due_ms, message.id),
        )
        if after is not None:
            entries = [message for message in entries if (message.due_ms, message.id) > (after.ms, after.id)]
        some = entries[:count]
        return Page(some, Position(some[-1].due_ms, some[-1].id) if len(entries) > count else None)

    def counts(self) -> Counts:
        by_lane = Counter(message.lane for message in self._waiting())
        waiting = sum(by_lane.values())
        leased = len(self._messages) - waiting
        return Counts(waiting, leased, self.count_dead(), by_lane, self._chains.count_behind())

    def stats(self) -> Mapping[str, int]:
        return dict(self._stats)

    def measure(self, late_ms: int) -> Measured:
        now_ms, counts = self._clock.now_ms(), self.counts()
        lanes = []
        for lane in self.lanes():
            dues = [message.due_ms for message in self._waiting() if message.lane == lane.name]
            due, late = sum(at <= now_ms for at in dues), sum(at < now_ms - late_ms for at in dues)
            is_paused = lane.paused_until_ms is not None
            lanes.append(MeasuredLane(lane.name, len(dues), due, late, lane.next_due_ms, is_paused, lane.rate))
        stats = dict(self._stats)
        return Measured(
            now_ms, counts.waiting, counts.leased, counts.behind, counts.dead, lanes, stats, self._tallies, now_ms
        )

    def lanes(self) -> list[Lane]:
        now_ms = self._clock.now_ms()
        due: dict[str, list[int]] = {}
        for message in self._waiting():
            due.setdefault(message.lane, []).append(message.due_ms)
        paused = {lane: until_ms for lane, until_ms in self._paused.items() if until_ms > now_ms}
        return [
            Lane(
                name,
                len(due.get(name, ())),
                min(due.get(name, ()), default=None),
                paused.get(name),
                self._rates.get(name),
            )
            for name in sorted({*due, *paused, *self._rates})
        ]

    def pause(self, lane: str, until_ms: int) -> None:
        self._paused[lane] = until_ms

    def resume(self, lane: str) -> None:
        self._paused.pop(lane, None)

    def set_rate(self, lane: str, per_second: float | None, *, configured: bool = False) -> None:
        if per_second is None:
            self._rates.pop(lane, None)
        else:
            self._rates[lane] = per_second

    def chain(
        self, steps: Sequence[Step], token: str, hold_ms: int, *, piggybacked: Sequence[Sequence[Any]] = ()
    ) -> list[Answer]:
        return self._chains.run(steps, token, hold_ms)

    def chain_names(self, prefix: str, after: str = "", count: int = 500) -> list[str]:
        return self._chains.names(prefix, after, count)

    def chains(self, prefix: str = "", after: str = "", count: int = 100) -> list[Chain]:
        return self._chains.listed(prefix, after, count)

    def overdue_ms(self) -> int:
        """0: the test's worker takes what is due at once."""
        return 0

    def unclaimed_ms(self) -> int:
        """0, for the same reason."""
        return 0

    def purge(self) -> int:
        count = len(self._messages) + self._chains.count_behind()
        self._messages.clear()
        self._chains.clear()
        self._stats["purged"] += count
        return count

    def server_info(self) -> dict[str, Any]:
        return {}

    def ping(self) -> None: ...

    def _unschedule(self, id: str) -> None:  # noqa: A002
        if self._messages.pop(id, None) is not None:
            self._stats["finished"] += 1

    def _waiting(self) -> list[Waiting]:
        return [message for message in self._messages.values() if not message.leased]

    def _found(self, ids: Iterable[str]) -> list[Waiting]:
        return [message for id in ids if (message := self._messages.get(id)) is not None]  # noqa: A001
