"""Lists, counts and finds dead letters in Redis and in Kafka topics."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import msgspec

from ..errors import InvalidSettingError
from ..selection import NO_FILTER, DeadLetterView, Filter, Progress, check_count, check_filter, check_text
from . import editing
from .letter import Letter, letter_of_record, letters_of
from .walking import Access, Cursor, Extent, Source, Walk, read_source

#: The largest page of `list`.
LARGEST_PAGE = 1_000
#: Progress is told after so many letters.
_TELL_EACH = 500

_TOPIC, _PARTITION, _OFFSET = "([A-Za-z0-9._-]{1,249})", "([0-9]{1,9})", "([0-9]{1,18})"
#: How a place in a topic is written: as the id of a letter, as log lines have it, and as many tools of Kafka do.
_PLACES = [
    re.compile(form, re.ASCII)
    for form in (
        f"{_TOPIC}:{_PARTITION}:{_OFFSET}",
        rf"(?:kafka:(?://)?)?{_TOPIC}\[{_PARTITION}\]@{_OFFSET}",
        f"{_TOPIC}/{_PARTITION}/{_OFFSET}",
    )
]

Tell = Callable[[Progress], object]


def read_place(text: str) -> tuple[str, int, int] | None:
    """Return topic, partition and offset of a place such as `orders-dlq:3:812` or `orders-dlq[3]@812`; None if it is
    none."""
    found = next((found for form in _PLACES if (found := form.fullmatch(text))), None)
    return None if found is None else (found[1], int(found[2]), int(found[3]))


class DeadLetterPage(msgspec.Struct, frozen=True):
    """A part of the dead letters.

    Attributes:
        entries: the views. Those of one source come the earliest first; Redis comes first, and then the topics by name.
        next: give this as `after` to read on; None where nothing follows.
        read: how many letters were read for it: with a filter more than it has.
    """

    entries: list[DeadLetterView]
    next: str | None
    read: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"entries": [entry.to_dict() for entry in self.entries], "next": self.next, "read": self.read}


class Looking:
    """The part of `DeadLetters` that changes nothing.

    Args:
        access: opens Redis and Kafka.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    def sources(self) -> list[str]:
        """Return where dead letters may be: "redis", and the dead letter topics that Kafka has."""
        return [str(source) for source in self._access.sources()]

    def list(
        self,
        filter: Filter | None = None,  # noqa: A002 - the field's own word
        source: str | None = None,
        after: str | None = None,
        limit: int = 100,
        *,
        read: int | None = None,
        progress: Tell | None = None,
    ) -> DeadLetterPage:
        """Return a page of the dead letters, those of one source the earliest first.

        Args:
            filter: which letters are meant; None means all.
            source: where they are; see above.
            after: the `next` of the page before.
            limit: the largest number of letters; 1 to 1,000.
            read: with a filter, stop after about so many letters even if the page is not full. Its `next` reads on.
            progress: called while a filter reads.

        Raises:
            InvalidSettingError: if `source`, `after` or `limit` is wrong.
        """
        if type(limit) is not int or not 1 <= limit <= LARGEST_PAGE:
            raise InvalidSettingError("limit", limit, f"it is a whole number from 1 to {LARGEST_PAGE:,}")
        check_filter(filter)
        check_count("read", read)
        views: list[DeadLetterView] = []
        walked = 0
        sources = self._sources(source, after)
        for index, (place, cursor) in enumerate(sources):
            walk = Walk(self._access, place, cursor, filter or NO_FILTER)
            with closing(self._matching(walk, filter or NO_FILTER, progress)) as letters:
                for letter in letters:
                    if letter is not None:
                        views.append(letter.view)
                    if len(views) == limit or (read is not None and walked + walk.read >= read):
                        return DeadLetterPage(views, str(walk.cursor), walked + walk.read)
            walked += walk.read
            if len(views) == limit and index + 1 < len(sources):
                return DeadLetterPage(views, str(Cursor(sources[index + 1][0])), walked)
        return DeadLetterPage(views, None, walked)

    def iterate(
        self,
        filter: Filter | None = None,  # noqa: A002
        source: str | None = None,
        *,
        progress: Tell | None = None,
    ) -> Iterator[DeadLetterView]:
        """Give all dead letters that fit, reading page by page; see `list`."""
        for letter in self.letters(filter, source, progress=progress):
            yield letter.view

    def letters(
        self,
        filter: Filter | None = None,  # noqa: A002
        source: str | None = None,
        *,
        progress: Tell | None = None,
    ) -> Iterator[Letter]:
        """Give all dead letters that fit, with their values; see `list`."""
        check_filter(filter)
        for place, cursor in self._sources(source, None):
            walk = Walk(self._access, place, cursor, filter or NO_FILTER)
            with closing(self._matching(walk, filter or NO_FILTER, progress)) as letters:
                yield from (letter for letter in letters if letter is not None)

    def get(self, id: str) -> DeadLetterView | None:  # noqa: A002
        """Return the dead letter with this id, or at this place of a topic; None if there is none, or no more."""
        letter = self.letter(id)
        return None if letter is None else letter.view

    def letter(self, id: str) -> Letter | None:  # noqa: A002
        """Return the dead letter with this id with its value; None if there is none, or no more."""
        check_text("id", id, "it is the id of a dead letter, as a text")
        with self._access.schedule() as schedule, self._access.asking():
            for name in editing.entries_of(id):
                if (entry := schedule.dead_letter(name)) is not None:
                    return next(letters_of([entry], self._access.settings.encryption_keys))
        place = read_place(id)
        if place is None:
            return None
        with self._access.topics() as topics:
            record = topics.record(*place)
        if record is None:
            return None
        return letter_of_record(record, self._access.settings.dead_letter_suffix, record.timestamp_type)

    def count(self, source: str = "redis") -> int:
        """Return how many dead letters there are, without reading any.

        For a topic it is an upper bound: the offsets between its first and its last record. Compaction, transactions
        and deleted records leave offsets without a record.
        """
        place = read_source(source)
        if place.topic is None:
            with self._access.schedule() as schedule, self._access.asking():
                return schedule.counts().dead
        with self._access.topics() as topics:
            return sum(end - begin for begin, end in topics.bounds(place.topic).values())

    def extent(self, source: str) -> Extent:
        """Return what there is in a source now: a replay with it leaves out what comes later.

        Raises:
            NoTopicError: if there is no such topic.
        """
        place = read_source(source)
        if place.topic is None:
            return Extent(self.count(source), self._access.clock.now_ms())
        with self._access.topics() as topics:
            begins = {number: begin for number, (begin, _) in topics.bounds(place.topic).items()}
            ends = topics.ends(place.topic)
        return Extent(sum(end - begins.get(number, 0) for number, end in ends.items()), None, ends)

    # how it works

    def _sources(self, source: str | None, after: str | None) -> Sequence[tuple[Source, Cursor | None]]:
        """Each source that is to be read, and where it begins."""
        cursor = None if after is None else Cursor.read(after)
        sources = self._access.sources() if source is None else [read_source(source)]
        if cursor is None:
            return [(each, None) for each in sources]
        if cursor.source not in sources:
            if source is not None:
                raise InvalidSettingError("after", after, f"it is a position in {cursor.source}, and not in {source}")
            # The topic was deleted meanwhile.
            sources = sorted({*sources, cursor.source}, key=lambda each: (each.topic is not None, each.topic))
        start = sources.index(cursor.source)
        return [(cursor.source, cursor), *((each, None) for each in sources[start + 1 :])]

    def _matching(self, walk: Walk, chosen: Filter, progress: Tell | None) -> Generator[Letter | None]:
        """Give the letters of a walk that fit; and None for each that does not, so that the caller may stop."""
        matched = 0
        for letter in walk:
            fits = chosen.matches(letter.view, self._access.clock.now_ms())
            matched += fits
            if progress is not None and walk.read % _TELL_EACH == 0:
                progress(Progress(walk.read, walk.total, matched))
            yield letter if fits else None
