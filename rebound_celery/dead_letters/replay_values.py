"""What a replay stores, and what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from ..errors import InvalidSettingError
from ..message import Message
from ..message.address import KafkaAddress
from ..schedule.port import Schedule
from ..selection import DeadLetterView, check_count

#: A worker that runs claims within this time what is due, in milliseconds.
UNCLAIMED_MS = 3_000

#: What the order of letters is kept by: the topic that they go to, and their key.
Order = tuple[str, bytes]


class Replaced(NamedTuple):
    """A message that takes the place of a dead letter.

    Attributes:
        message: the message.
        task_id: the id of the Celery task that delivers it.
        dead_id, series, number, counter: see `Revival` of the schedule. The counter is "replayed" or "parked".
    """

    message: Message
    task_id: str
    dead_id: str | None
    series: str
    number: int
    counter: str

    @classmethod
    def of(cls, message: Message, view: DeadLetterView, counter: str) -> Replaced:
        """What takes the place of the letter that this view shows."""
        dead_id = view.id if view.partition is None else None
        return cls(message, message.task_id, dead_id, f"{view.kept_in}/{view.partition}", view.offset or 0, counter)

    @property
    def order(self) -> Order | None:
        """What its order is kept by; None for no order."""
        target, key = self.message.target, self.message.key
        return (target.topic, key) if key is not None and isinstance(target, KafkaAddress) else None


class Store(Protocol):
    """Stores messages in the places of dead letters, due now; returns which were stored."""

    def __call__(self, schedule: Schedule, replaced: Sequence[Replaced], *, again: bool) -> Sequence[bool]: ...


class ReplayResult(msgspec.Struct, frozen=True, kw_only=True):
    """How far a replay is, or what became of it.

    Attributes:
        dry_run: whether nothing was to be stored.
        read: how many letters were read.
        total: how many there were when it began; for a topic an upper bound.
        matched: how many of them fit.
        replayed: how many are stored to be sent again.
        parked: how many are stored for `{topic}-parked`.
        repeated: how many were left out, because they were replayed before, are gone, or a message with their id waits.
        left: how many cannot be replayed as asked; they are where they were.
        problems: why, for the first of these.
        unknown: the given ids under which there is no dead letter.
        waiting: how many of those that were read wait until an earlier one with their key is delivered.
        unclaimed_ms: while some wait: for how long messages are due and no worker has claimed any. Some seconds mean
            that no worker consumes rebound's queue.
        position: where to go on; give it as `after`. None if ids were given.
        done: whether nothing is left to do.
    """

    dry_run: bool = False
    read: int = 0
    total: int = 0
    matched: int = 0
    replayed: int = 0
    parked: int = 0
    repeated: int = 0
    left: int = 0
    problems: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    waiting: int = 0
    unclaimed_ms: int = 0
    position: str | None = None
    done: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, with stable keys."""
        return {"action": "replay", **msgspec.to_builtins(self)}


class Passed(NamedTuple):
    """What a replay that goes on at the `position` of a result will not read again.

    Attributes:
        read: how many letters.
        matched: how many of them fit.
        left: how many of them cannot be replayed.
    """

    read: int = 0
    matched: int = 0
    left: int = 0


def check_options(limit: int | None, rate: float | None, max_replays: int) -> None:
    """Check the options of a replay.

    Raises:
        InvalidSettingError: naming the one that is wrong.
    """
    check_count("limit", limit)
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is not None and not (is_number and 0 < rate <= 1e6):
        raise InvalidSettingError("rate", rate, "it is a number of letters a second, above 0")
    if type(max_replays) is not int or max_replays < 0:
        raise InvalidSettingError("max_replays", max_replays, "it is a whole number from 0")
