"""The values that go into the schedule of a queue and come out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Entry(NamedTuple):
    """A message to store.

    Attributes:
        id: its name in the queue; an id that is stored already is replaced.
        due_ms: when it may be delivered, in Unix milliseconds; a time that has passed means at once.
        stored: its stored form.
        lane: the lane in which it waits.
        priority: kombu's priority, 0 to 9; 0 is the most urgent.
    """

    id: str
    due_ms: int
    stored: bytes
    lane: str = ""
    priority: int = 0


class Claimed(NamedTuple):
    """A leased message.

    Attributes:
        id: its name in the queue.
        stored: its stored form.
        lane: the lane in which it waited.
        priority: the priority step at which it waited.
        losses: how many workers were lost while they held it.
    """

    id: str
    stored: bytes
    lane: str
    priority: int
    losses: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that is in the schedule, as a listing shows it; `due_ms` is the end of the lease where it is leased."""

    id: str
    due_ms: int
    stored: bytes
    lane: str
    priority: int
    losses: int
    leased: bool


class Position(NamedTuple):
    """Where a page ended: the next one begins behind it."""

    ms: int
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing; `next` is None where it ends."""

    entries: list[Waiting]
    next: Position | None


@dataclass(frozen=True, slots=True)
class Lane:
    """A lane of a queue.

    Attributes:
        name: its name.
        waiting: how many messages wait in it.
        next_due_ms: when its first message is due; None if none waits.
        paused_until_ms: until when no worker claims from it; None if it is not paused.
        rate: how many messages a second all workers together may claim from it; None without a limit.
    """

    name: str
    waiting: int
    next_due_ms: int | None
    paused_until_ms: int | None
    rate: float | None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages wait, are leased and are dead letters, and how many wait in each lane."""

    waiting: int
    leased: int
    dead: int
    by_lane: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DeadEntry:
    """A dead letter: why the message was given up, its stored form, and when (None for one that is not kept yet)."""

    id: str
    reason: str
    stored: bytes
    died_ms: int | None = None


@dataclass(frozen=True, slots=True)
class DeadPage:
    """A part of the dead letters; `next` is None where they end."""

    letters: list[DeadEntry]
    next: Position | None


class HealthReport(NamedTuple):
    """What an endpoint answered.

    Attributes:
        name: the endpoint's.
        took: whether it took a message.
        failures: how many messages failed.
        alone_ms: for how long it wants to be left alone, in milliseconds; None where it does not.
        disable_after_ms: after how long a time of nothing but failures it is disabled; 0 for never.
        gone: why it is disabled at once; the empty text for not.
    """

    name: str
    took: bool = False
    failures: int = 0
    alone_ms: int | None = None
    disable_after_ms: int = 0
    gone: str = ""


class Health(NamedTuple):
    """The health of an endpoint; all zeros where it is well. Times are Unix milliseconds.

    Attributes:
        since_ms: since when it has done nothing but fail.
        last_ms: its last failure.
        failures: how many there were.
        slow_until_ms: until when it is left alone.
        disabled_ms: when it was disabled; 0 for not.
        reason: why.
        is_new: whether this report has disabled it.
    """

    since_ms: int = 0
    last_ms: int = 0
    failures: int = 0
    slow_until_ms: int = 0
    disabled_ms: int = 0
    reason: str = ""
    is_new: bool = False
