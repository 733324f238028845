"""Reads what waits in pages: each command to Redis is short, and memory does not grow with what waits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import msgspec

from ..errors import InvalidSettingError
from ..schedule.port import Position, Schedule, Waiting
from ..selection import Filter, PendingView

#: How many entries a page has at most while a filter goes through the schedule, and at least for each lane: a page
#: begins with a look into each of them.
LARGEST = 500
_PER_LANE = 5
#: How many it has until the size of the entries is known.
_FIRST = 100
#: How many bytes of stored messages a page should have at most. Redis sends 4 MB within 10 ms.
_PAGE_BYTES = 2_000_000

_AFTER = re.compile(r"([0-9]{1,16}):(.+)", re.ASCII | re.DOTALL)


class PendingPage(msgspec.Struct, frozen=True):
    """A part of what waits.

    Attributes:
        entries: the views, by due time.
        next: give this as `after` to read on; None where nothing follows.
        read: how many entries were read for it: with a filter more than it has.
    """

    entries: list[PendingView]
    next: str | None
    read: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"entries": [entry.to_dict() for entry in self.entries], "next": self.next, "read": self.read}


class Found(NamedTuple):
    """An entry with its view."""

    entry: Waiting
    view: PendingView


class Part(NamedTuple):
    """What one page of the schedule had.

    Attributes:
        read: how many entries were read.
        found: those that fit.
        next: where the next page begins; None at the end.
    """

    read: int
    found: list[Found]
    next: Position | None


def parts(
    schedule: Schedule,
    chosen: Filter,
    view: Callable[[Sequence[Waiting]], list[PendingView]],
    now_ms: Callable[[], int],
    asking: Callable[[], AbstractContextManager[None]],
    *,
    after: Position | None = None,
    count: int | None = None,
    lanes: int = 1,
    leased: bool = False,
) -> Iterator[Part]:
    """Read the schedule page by page, and give what fits.

    Args:
        schedule: the schedule of the queue.
        chosen: the filter.
        view: makes the views of entries.
        now_ms: tells the time.
        asking: surrounds each call of the schedule.
        after: where to begin.
        count: the size of a page; None lets it follow from the size of the entries.
        lanes: how many lanes there are.
        leased: whether what workers hold is read, and not what waits.
    """
    position, size = _begin(chosen, after, leased=leased), count or _FIRST
    largest = max(LARGEST, _PER_LANE * lanes)
    while True:
        with asking():
            page = schedule.page(None, position, size, leased=leased)
        entries = page.entries
        # What is due later cannot fit.
        last_ms = None if leased else chosen.due_to_ms
        is_end = page.next is None or (last_ms is not None and bool(entries) and entries[-1].due_ms > last_ms)
        time_ms = now_ms()
        found = [
            Found(entry, seen)
            for entry, seen in zip(entries, view(entries), strict=True)
            if chosen.matches(seen, time_ms)
        ]
        yield Part(len(entries), found, None if is_end else page.next)
        if is_end:
            return
        position = page.next
        if count is None and entries:
            average = sum(len(entry.stored) for entry in entries) // len(entries)
            size = min(largest, max(1, _PAGE_BYTES // max(1, average)))


def _begin(chosen: Filter, after: Position | None, *, leased: bool) -> Position | None:
    """What is due earlier cannot fit, and is not read."""
    if leased or chosen.due_from_ms is None:
        return after
    begin = Position(chosen.due_from_ms, "")
    return begin if after is None else max(after, begin)


def to_text(position: Position) -> str:
    """A position as `after` takes it."""
    return f"{position.ms}:{position.id}"


def read_after(text: str | None) -> Position | None:
    """The position of a text that `to_text` has made.

    Raises:
        InvalidSettingError: if it is none.
    """
    if text is None:
        return None
    found = _AFTER.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidSettingError("after", text, "it is the `next` of a page")
    return Position(int(found[1]), found[2])
