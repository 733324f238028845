"""Computes what became of every message, by its id, from the records in Kafka alone. It uses no counter of any part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ..policy import RetryPolicy
from .handler import Call


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record of the dead letter topic: its message's id, and the headers that rebound gave it."""

    id: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers of an account, for the live display.

    Attributes:
        produced: messages that the producer has sent: the sum of `succeeded`, `dead` and `waiting`.
        calls: calls of the handler; attempt -> count.
        next_due_ms: when the first of the retries that wait is due.
        last_due_ms: when the last of them is due.
    """

    produced: int
    succeeded: int
    dead: int
    waiting: int
    calls: Mapping[int, int]
    next_due_ms: int | None
    last_due_ms: int | None

    @property
    def consumed(self) -> int:
        """All calls of the handler."""
        return sum(self.calls.values())

    @property
    def first_calls(self) -> int:
        """The calls with records that the producer sent."""
        return self.calls.get(1, 0)


@dataclass(slots=True)
class Account:
    """Collects every record of the run's three topics, in any order.

    Attributes:
        policy: the retry policy of the run; it says when a retry is due.
        calls: the handler's calls, by message id and by the name of the call.
        positions: the partition and offset of each delivery of a message in the consumed topic.
        calls_by_attempt: how many calls the handler had; attempt -> count.
        redelivered: how many records of the consumed topic are redeliveries; attempt -> count.
        dead: the dead letters, by message id.
    """

    policy: RetryPolicy
    calls: dict[str, dict[str, Call]] = field(default_factory=dict)
    positions: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    calls_by_attempt: Counter[int] = field(default_factory=Counter)
    redelivered: Counter[int] = field(default_factory=Counter)
    dead: dict[str, list[DeadLetter]] = field(default_factory=dict)
    _arrived: dict[str, int] = field(default_factory=dict)
    _due: dict[str, tuple[int, int]] = field(default_factory=dict)
    _handled: set[str] = field(default_factory=set)
    _retried: int = 0

    def add_call(self, call: Call) -> None:
        calls = self.calls.setdefault(call.id, {})
        if call.call in calls:
            return
        calls[call.call] = call
        self.calls_by_attempt[call.attempt] += 1
        if not call.failed:
            self._handled.add(call.id)
        elif call.attempt <= self.policy.max_retries:
            self._retried += 1
            if self._arrived.get(call.id, 0) <= call.attempt:
                self._due[call.id] = (call.attempt, call.at_ms + round(1000 * self.policy.delay_s(call.attempt)))

    def add_delivery(self, message_id: str, attempt: int, partition: int, offset: int) -> None:
        """Add a record of the consumed topic. Attempt 1 is the record that the producer sent."""
        self.positions.setdefault(message_id, []).append((partition, offset))
        if attempt > 1:
            self.redelivered[attempt] += 1
            self._arrived[message_id] = max(attempt, self._arrived.get(message_id, 0))
            due = self._due.get(message_id)
            if due is not None and due[0] < attempt:
                del self._due[message_id]

    def add_dead_letter(self, letter: DeadLetter) -> None:
        self.dead.setdefault(letter.id, []).append(letter)
        self._due.pop(letter.id, None)

    @property
    def handled(self) -> set[str]:
        """The ids whose handler has returned."""
        return self._handled

    @property
    def retried(self) -> int:
        """The handler's failed calls that a retry follows."""
        return self._retried

    @property
    def consumed(self) -> int:
        """All of the handler's calls."""
        return self.calls_by_attempt.total()

    @property
    def delivered(self) -> int:
        """Retries that have reached the consumed topic."""
        return self.redelivered.total()

    def unfinished(self, produced: Collection[str]) -> set[str]:
        """The ids that are neither handled nor dead."""
        return set(produced) - self._handled - self.dead.keys()

    def finished_twice(self) -> set[str]:
        """The ids that were handled twice, are dead twice, or both handled and dead."""
        times = Counter({message_id: len(letters) for message_id, letters in self.dead.items()})
        for message_id in self._handled:
            times[message_id] += sum(not call.failed for call in self.calls[message_id].values())
        return {message_id for message_id, count in times.items() if count > 1}

    def counts(self, produced: Collection[str], now_ms: int) -> Counts:
        """The numbers of these messages. A retry that was due before `now_ms` is on its way and no longer waits."""
        waiting = self.unfinished(produced)
        succeeded = len(self._handled.intersection(produced))
        due = [due_ms for _, due_ms in self._due.values() if due_ms > now_ms]
        return Counts(
            produced=len(produced),
            succeeded=succeeded,
            dead=len(produced) - len(waiting) - succeeded,
            waiting=len(waiting),
            calls=dict(sorted(self.calls_by_attempt.items())),
            next_due_ms=min(due, default=None),
            last_due_ms=max(due, default=None),
        )
