"""What a queue's metrics need, in a few round trips whose cost does not grow with what waits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from . import breakers
from .envelope import from_id
from .keys import QueueKeys

#: So many lanes of a rank are looked at, those that are due next. All others are measured together.
_LANES = 300

#: Between a metric and the labels, in the names of counters that have labels.
_BAR = "|"
#: Counts the fields of a metric, so that there are not too many; see counted.lua.
_FIELDS = "fields"


@dataclass(frozen=True, slots=True)
class MeasuredLane:
    """A lane at one moment.

    Attributes:
        name: its name.
        waiting: how many messages wait in it.
        due: how many of them are due.
        late: how many have been due for longer than was asked for.
        first_due_ms: when its first message is due; None if none waits.
        is_paused: whether no worker claims from it now.
        rate: how many messages a second all workers together may claim from it; None without a limit.
        breaker: the state of its circuit breaker: "open", "probing" or "draining"; None if it is closed.
    """

    name: str
    waiting: int = 0
    due: int = 0
    late: int = 0
    first_due_ms: int | None = None
    is_paused: bool = False
    rate: float | None = None
    breaker: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A queue at one moment.

    Attributes:
        now_ms: the time by Redis' clock, in Unix milliseconds.
        waiting: how many messages wait.
        leased: how many workers hold.
        behind: how many are behind the head of a chain.
        dead: how many dead letters Redis keeps.
        lanes: the lanes in which messages wait, and those that are paused, limited, or have an open circuit breaker.
            Where there are more than 300, those that are due next.
        counters: the scripts' own counters.
        tallies: metric -> what follows the bar in a field's name -> its value; see `Tally`.
        claimed_ms: when a worker last claimed, or had no room for more; None if that is not known.
    """

    now_ms: int
    waiting: int
    leased: int
    behind: int
    dead: int
    lanes: list[MeasuredLane]
    counters: Mapping[str, int]
    tallies: Mapping[str, Mapping[str, int]]
    claimed_ms: int | None

    @property
    def due(self) -> int:
        """How many messages a worker could take now: those that are due in lanes that are not paused."""
        return sum(lane.due for lane in self.lanes if not lane.is_paused)

    @property
    def overdue_ms(self) -> int:
        """For how long the first of those messages has been due; 0 if there is none."""
        heads = [lane.first_due_ms for lane in self.lanes if lane.due and not lane.is_paused]
        return max((self.now_ms - head for head in heads if head is not None), default=0)

    @property
    def unclaimed_ms(self) -> int:
        """For how long messages are due and no worker has claimed or had no room."""
        since_ms = self.overdue_ms if self.claimed_ms is None else self.now_ms - self.claimed_ms
        return max(0, min(self.overdue_ms, since_ms))


def plain_counters(found: Mapping[bytes, bytes]) -> dict[str, int]:
    """The scripts' own counters, of all that is in their hash."""
    return {name.decode(): int(value) for name, value in found.items() if _BAR.encode() not in name}


def measure(client: Any, keys: QueueKeys, late_ms: int) -> Measured:
    """Measure a queue; a message is late if it has been due for longer than `late_ms`."""
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        for rank in keys.ranks:
            pipe.zrange(keys.lanes(rank), 0, _LANES - 1)
        pipe.hgetall(keys.limits)
        pipe.hgetall(keys.stats)
        pipe.get(keys.claimed)
        (seconds, microseconds), *lanes, limits, stats, claimed = pipe.execute()
    now_ms = seconds * 1000 + microseconds // 1000
    references = [f"{rank}{from_id(lane)}" for rank, names in zip(keys.ranks, lanes, strict=True) for lane in names]
    with client.pipeline(transaction=False) as pipe:
        pipe.hlen(keys.messages)
        pipe.zcard(keys.leased)
        pipe.zcard(keys.dead_times)
        pipe.zcard(keys.chained)
        pipe.hlen(keys.chained_heads)
        for reference in references:
            pipe.zcard(keys.waiting(reference))
            pipe.zrange(keys.waiting(reference), 0, 0, withscores=True)
        total, leased, dead, members, heads, *found = pipe.execute()
    firsts = {reference: int(first[0][1]) for reference, first in zip(references, found[1::2], strict=True) if first}
    due = _counts(client, keys, [reference for reference, first in firsts.items() if first <= now_ms], now_ms)
    late_ms = now_ms - late_ms - 1
    late = _counts(client, keys, [reference for reference, first in firsts.items() if first <= late_ms], late_ms)
    by_name: dict[str, MeasuredLane] = {}
    for reference, size in zip(references, found[::2], strict=True):
        lane = by_name.get(reference[1:]) or MeasuredLane(reference[1:])
        dues = [first for first in (firsts.get(reference), lane.first_due_ms) if first is not None]
        by_name[lane.name] = replace(
            lane,
            waiting=lane.waiting + size,
            due=lane.due + due.get(reference, 0),
            late=lane.late + late.get(reference, 0),
            first_due_ms=min(dues, default=None),
        )
    for name, text in limits.items():
        until_ms, rate, _ = (float(part) for part in text.split())
        lane = by_name.get(from_id(name)) or MeasuredLane(from_id(name))
        by_name[lane.name] = replace(lane, is_paused=until_ms > now_ms, rate=rate or None)
    for breaker in breakers.breakers(client, keys):
        lane = by_name.get(breaker.lane) or MeasuredLane(breaker.lane)
        by_name[lane.name] = replace(lane, breaker=breaker.state)
    return Measured(
        now_ms,
        max(0, total - leased),
        leased,
        members - heads,
        dead,
        sorted(by_name.values(), key=attrgetter("name")),
        plain_counters(stats),
        _tallies(stats),
        None if claimed is None else int(claimed),
    )


def _counts(client: Any, keys: QueueKeys, references: Sequence[str], until_ms: int) -> dict[str, int]:
    """How many messages of these lanes are due until then."""
    if not references:
        return {}
    with client.pipeline(transaction=False) as pipe:
        for reference in references:
            pipe.zcount(keys.waiting(reference), "-inf", until_ms)
        return dict(zip(references, pipe.execute(), strict=True))


def _tallies(found: Mapping[bytes, bytes]) -> dict[str, dict[str, int]]:
    tallies: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for name, value in found.items():
        metric, bar, labels = name.decode("utf-8", "replace").partition(_BAR)
        if bar and metric != _FIELDS:
            tallies[metric][labels] = int(value)
    return dict(tallies)
