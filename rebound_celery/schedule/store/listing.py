"""Looking at the schedule: every command is short, whatever waits, so that Redis is never held up."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from . import envelope
from .envelope import from_id, to_id
from .keys import QueueKeys
from .values import Counts, DeadPage, Lane, Page, Position, Waiting

#: How many ids, or messages, a command reads at most.
_READ = 500
#: So many members with the same time are read through; a longer run is searched.
_SAME_TIME = 500

#: A member of a sorted set: its score, and its bytes.
_Member = tuple[float, bytes]


def page(
    client: Any, keys: QueueKeys, lane: str | None, after: Position | None, count: int, *, leased: bool = False
) -> Page:
    """A page of what waits, or of what is leased, ordered by time and id."""
    if leased:
        found = _members(client, [keys.leased], after, count)
        entries = [entry for entry in _leased_entries(client, keys, found) if lane is None or entry.lane == lane]
    else:
        references = [f"{rank}{lane}" for rank in keys.ranks] if lane is not None else _references(client, keys)
        found = _members(client, [keys.waiting(reference) for reference in references], after, count)
        entries = [_entry(member, message, leased=False) for member, message in _with_messages(client, keys, found)]
    return Page(entries, _next(found, count))


def get(client: Any, keys: QueueKeys, identity: str) -> Waiting | None:
    """One message, waiting or leased."""
    name = to_id(identity)
    for _ in range(3):  # it may be claimed, or come back, between the two looks
        message = client.hget(keys.messages, name)
        if message is None:
            return None
        _, reference, _ = envelope.opened(message)
        with client.pipeline(transaction=False) as pipe:
            pipe.zscore(keys.waiting(reference), name)
            pipe.zscore(keys.leased, name)
            due, lease_end = pipe.execute()
        if due is not None or lease_end is not None:
            time = lease_end if due is None else due
            return _entry((time, name), message, leased=due is None)
    return None


def known(client: Any, keys: QueueKeys, ids: Sequence[str]) -> list[str]:
    """Those of these ids under which there is a message."""
    found: list[str] = []
    for start in range(0, len(ids), _READ):
        part = ids[start : start + _READ]
        with client.pipeline(transaction=False) as pipe:
            for name in part:
                pipe.hexists(keys.messages, to_id(name))
            found += [name for name, is_there in zip(part, pipe.execute(), strict=True) if is_there]
    return list(dict.fromkeys(found))


def counts(client: Any, keys: QueueKeys) -> Counts:
    """How many messages there are of each kind."""
    references = _references(client, keys)
    with client.pipeline(transaction=True) as pipe:
        pipe.hlen(keys.messages)
        pipe.zcard(keys.leased)
        pipe.zcard(keys.dead_times)
        pipe.zcard(keys.chained)
        pipe.hlen(keys.chained_heads)
        for reference in references:
            pipe.zcard(keys.waiting(reference))
        total, leased, dead, members, heads, *sizes = pipe.execute()
    by_lane: defaultdict[str, int] = defaultdict(int)
    for reference, size in zip(references, sizes, strict=True):
        by_lane[reference[1:]] += size
    in_lanes = {name: size for name, size in by_lane.items() if size}
    return Counts(max(0, total - leased), leased, dead, in_lanes, members - heads)


def lanes(client: Any, keys: QueueKeys) -> list[Lane]:
    """The lanes in which messages wait, and those that have limits."""
    references = _references(client, keys)
    with client.pipeline(transaction=False) as pipe:
        for reference in references:
            pipe.zcard(keys.waiting(reference))
            pipe.zrange(keys.waiting(reference), 0, 0, withscores=True)
        pipe.hgetall(keys.limits)
        pipe.time()
        *found, limits, (seconds, microseconds) = pipe.execute()
    now_ms = seconds * 1000 + microseconds // 1000
    waiting: dict[str, int] = defaultdict(int)
    first: dict[str, int] = {}
    for index, reference in enumerate(references):
        size, heads = found[2 * index], found[2 * index + 1]
        name = reference[1:]
        waiting[name] += size
        for _, score in heads:
            first[name] = min(int(score), first.get(name, int(score)))
    paused: dict[str, int] = {}
    rates: dict[str, float] = {}
    for lane, text in limits.items():
        until_ms, rate, _ = (float(part) for part in text.split())
        if until_ms > now_ms:
            paused[from_id(lane)] = int(until_ms)
        if rate:
            rates[from_id(lane)] = rate
    names = sorted({name for name, size in waiting.items() if size} | paused.keys() | rates.keys())
    return [Lane(name, waiting.get(name, 0), first.get(name), paused.get(name), rates.get(name)) for name in names]


def overdue_ms(client: Any, keys: QueueKeys) -> int:
    """For how long the message that is due first has been due and in no worker's hands; 0 if none is due."""
    seconds, microseconds = client.time()
    now_ms = seconds * 1000 + microseconds // 1000
    with client.pipeline(transaction=False) as pipe:
        for rank in keys.ranks:
            pipe.zrange(keys.lanes(rank), "-inf", now_ms, byscore=True, offset=0, num=_READ)
        due = pipe.execute()
    references = [f"{rank}{from_id(lane)}" for rank, names in zip(keys.ranks, due, strict=True) for lane in names]
    if not references:
        return 0
    with client.pipeline(transaction=False) as pipe:
        for reference in references:
            pipe.zrange(keys.waiting(reference), 0, 0, withscores=True)
        heads = pipe.execute()
    return max((now_ms - int(score) for head in heads for _, score in head if score <= now_ms), default=0)


def next_claims_in(client: Any, keys: Iterable[QueueKeys]) -> list[int | None]:
    """For each queue, milliseconds until a claim may find something, at most 0 if it does now; None if nothing waits.

    Two commands, however many queues there are.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.mget([of_queue.next for of_queue in keys])
        pipe.time()
        moments, (seconds, microseconds) = pipe.execute()
    now_ms = seconds * 1000 + microseconds // 1000
    return [None if moment is None else int(moment) - now_ms for moment in moments]


def unclaimed_ms(client: Any, keys: QueueKeys) -> int:
    """For how long a message has been due while no worker has claimed anything; 0 if none is due."""
    overdue = overdue_ms(client, keys)
    if overdue == 0:
        return 0
    with client.pipeline(transaction=False) as pipe:
        pipe.get(keys.claimed)
        pipe.time()
        claimed, (seconds, microseconds) = pipe.execute()
    now_ms = seconds * 1000 + microseconds // 1000
    return overdue if claimed is None else max(0, min(overdue, now_ms - int(claimed)))


def dead_page(client: Any, keys: QueueKeys, after: Position | None, count: int) -> DeadPage:
    """A page of the dead letters by the time of their death."""
    found = _members(client, [keys.dead_times], after, count)
    letters = []
    for start in range(0, len(found), _READ):
        part = found[start : start + _READ]
        for (died_ms, name), letter in zip(part, client.hmget(keys.dead, [name for _, name in part]), strict=True):
            if letter is not None:
                letters.append(envelope.open_letter(from_id(name), letter, int(died_ms)))
    return DeadPage(letters, _next(found, count))


def _references(client: Any, keys: QueueKeys) -> list[str]:
    """The references of all lanes in which messages may wait."""
    references = []
    for rank in keys.ranks:
        start = 0
        while names := client.zrange(keys.lanes(rank), start, start + _READ - 1):
            references += [f"{rank}{from_id(name)}" for name in names]
            if len(names) < _READ:
                break
            start += _READ
    # The order of lanes changes while it is read.
    return list(dict.fromkeys(references))


def _members(client: Any, sets: Sequence[str], after: Position | None, count: int) -> list[_Member]:
    """The first members of all these sets behind a position, ordered by score and then by their bytes."""
    if not sets or count <= 0:
        return []
    # Of many sets a part of the page each and a little more, read on as it is used up.
    step = min(_READ, max(10, 5 * count // (4 * len(sets))))
    starts = _starts(client, sets, after)
    with client.pipeline(transaction=False) as pipe:
        for key, start in zip(sets, starts, strict=True):
            pipe.zrange(key, start, start + step - 1, withscores=True)
        first = pipe.execute()

    def read(key: str, start: int, part: list[tuple[bytes, float]]) -> Iterator[_Member]:
        while part:
            for name, score in part:
                if after is None or (score, name) > (after.ms, to_id(after.id)):
                    yield score, name
            if len(part) < step:
                break
            start += step
            part = client.zrange(key, start, start + step - 1, withscores=True)

    merged = heapq.merge(*(read(*each) for each in zip(sets, starts, first, strict=True)))
    return [member for _, member in zip(range(count), merged, strict=False)]


def _starts(client: Any, sets: Sequence[str], after: Position | None) -> list[int]:
    """The rank in each set from which what lies behind a position is read."""
    if after is None:
        return [0] * len(sets)
    with client.pipeline(transaction=False) as pipe:
        for key in sets:
            pipe.zcount(key, "-inf", f"({after.ms}")
            pipe.zcount(key, after.ms, after.ms)
        found = pipe.execute()
    name = to_id(after.id)
    starts = []
    for index, key in enumerate(sets):
        low, same = found[2 * index], found[2 * index + 1]
        high = low + same
        # Members of one time are ordered by their bytes: so many that it matters are searched for the place.
        while high - low > _SAME_TIME:
            middle = (low + high) // 2
            there = client.zrange(key, middle, middle, withscores=True)
            if there and (there[0][1], there[0][0]) <= (after.ms, name):
                low = middle + 1
            else:
                high = middle
        starts.append(low)
    return starts


def _next(found: Sequence[_Member], count: int) -> Position | None:
    if len(found) < count or not found:
        return None
    score, name = found[-1]
    return Position(int(score), from_id(name))


def _with_messages(client: Any, keys: QueueKeys, found: Sequence[_Member]) -> Iterator[tuple[_Member, bytes]]:
    for start in range(0, len(found), _READ):
        part = found[start : start + _READ]
        for member, message in zip(part, client.hmget(keys.messages, [name for _, name in part]), strict=True):
            if message is not None:
                yield member, message


def _leased_entries(client: Any, keys: QueueKeys, found: Sequence[_Member]) -> list[Waiting]:
    return [_entry(member, message, leased=True) for member, message in _with_messages(client, keys, found)]


def _entry(member: _Member, message: bytes, *, leased: bool) -> Waiting:
    score, name = member
    stored, reference, losses = envelope.opened(message)
    return Waiting(from_id(name), int(score), stored, reference[1:], int(reference[0]), losses, leased)
