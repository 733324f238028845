"""The values that go into the schedule of a queue and come out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec


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


class Hold(NamedTuple):
    """That messages are held: as if leased, until they are due. Then they wait, and a worker more was lost with them.

    Attributes:
        token: names who holds them.
        now_ms: the time by the clock by which the due times are given: how long they are held does not depend on it.
        ends: whether this ends it: the entries replace the messages of their ids that are still held, or have become
            due and are in nobody's hands. What is gone stays gone, and what was stored anew stays as it is.
    """

    token: str
    now_ms: int
    ends: bool = False


class Unique(NamedTuple):
    """That only one message with a key may wait.

    Attributes:
        key: the key, unique in the queue.
        how: what is done with a message that waits already: "keep" (the new one is not stored), "replace" (it gets the
            new message, and stays due as it was) or "extend" (it is due as the new one).
        max_wait_ms: with "extend", it is due no later than so long after the first message was stored.
        ended_lane: messages of this lane do not wait: they were delivered, and are to be settled.
    """

    key: str
    how: str
    max_wait_ms: int | None = None
    ended_lane: str = ""

    def due_ms(self, asked_ms: int, first_ms: int) -> int:
        """When a message is due that should be due at `asked_ms`, where the first one was stored at `first_ms`."""
        if self.how != "extend" or self.max_wait_ms is None:
            return asked_ms
        return min(asked_ms, first_ms + self.max_wait_ms)


class UniqueEnd(NamedTuple):
    """What became of a message with a unique key.

    Attributes:
        id: under which id the message waits: its own, or that of the one that waited already.
        event: "stored", "kept" or "replaced"; the empty text if it could not be stored now.
    """

    id: str
    event: str


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


class Waiting(msgspec.Struct, frozen=True, gc=False):
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
class BreakerRules:
    """When the circuit breaker of a lane opens, and how it closes.

    Attributes:
        share: it opens if at least this share of the deliveries in the window failed; above 0, at most 1.
        count: and if at least so many failed.
        window_ms: the window.
        probe_ms: the time until the first probe.
        max_probe_ms: the longest time between two probes; it doubles after each that fails.
        wait_ms: within this time the outcome of a probe is known; then another one goes out.
        drain_rate: how many messages a second are claimed once a probe was delivered; the rate doubles with each
            window. 0 means no limit.
    """

    share: float
    count: int
    window_ms: int
    probe_ms: int
    max_probe_ms: int
    wait_ms: int
    drain_rate: float


class LaneReport(NamedTuple):
    """How deliveries of a lane ended.

    Attributes:
        lane: its name.
        answered: how many were delivered, or refused for what they are.
        failed: how many failed as those to a destination that is away do.
        error: the last failure, for people.
    """

    lane: str
    answered: int
    failed: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Breaker:
    """The circuit breaker of a lane that is not closed.

    Attributes:
        lane: the name of the lane.
        state: "open" (nothing is claimed), "probing" (one message is on its way) or "draining" (messages are claimed at
            a limited rate).
        since_ms: when it opened last, in Unix milliseconds.
        until_ms: when the next probe may go out; None where it drains, and where it is open until it is closed by hand.
        by_hand: whether it was opened by hand.
        failed: how many deliveries had failed in the window when it opened.
        total: how many deliveries there were in the window.
        interval_s: the time between the last two probes, in seconds.
        drain_rate: how many messages a second are claimed while it drains.
        error: the last failure.
    """

    lane: str
    state: str
    since_ms: int
    until_ms: int | None
    by_hand: bool
    failed: int
    total: int
    interval_s: float
    drain_rate: float | None
    error: str


class BreakerChange(NamedTuple):
    """What a report has changed.

    Attributes:
        event: "opened", "probe-failed", "draining", "faster" or "closed"; the empty text for nothing.
        breaker: the breaker now; None if it is closed.
        now_ms: the time by Redis' clock, in Unix milliseconds.
    """

    event: str
    breaker: Breaker | None
    now_ms: int


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages wait, are leased, are dead letters, and wait in each lane; and how many are behind the head of
    a chain."""

    waiting: int
    leased: int
    dead: int
    by_lane: Mapping[str, int]
    behind: int = 0


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


class Revival(NamedTuple):
    """A message that takes the place of a dead letter, in one step: a crash neither loses nor doubles it.

    It is not stored if its id is there, if its dead letter is not there any more, or, without `again`, if its number of
    the series was taken before.

    Attributes:
        entry: the message.
        dead_id: the id of the dead letter, which is removed; None if it is not kept here.
        series: a dead letter that is kept elsewhere: the name of a series of which each number is taken once.
        number: its number in the series.
        counter: where a job does it: the job's counter that counts it.
    """

    entry: Entry
    dead_id: str | None
    series: str = ""
    number: int = 0
    counter: str = ""
