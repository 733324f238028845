"""Reads dead letters one after the other, from Redis and from Kafka topics, and says where to go on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from ..clock import Clock
from ..config import Settings
from ..errors import InvalidSettingError
from ..message.address import check_topic
from ..schedule.port import Position, Schedule
from ..selection import NO_FILTER, REDIS, Filter
from .letter import Letter, letter_of_record, letters_of

#: What names the Kafka topic `redis` as a source, and any other topic too.
_KAFKA = "kafka:"

_IN_REDIS = re.compile(r"redis:([0-9]{1,16}):(.*)", re.ASCII | re.DOTALL)
_IN_TOPIC = re.compile(r"kafka:([A-Za-z0-9._-]{1,249}):([0-9]{1,9}=[0-9]{1,18}(?:,[0-9]{1,9}=[0-9]{1,18})*|)", re.ASCII)

_PAGE = 100
_LARGEST = 500
#: How many bytes of stored letters a page should have at most. Redis sends 4 MB within 10 ms.
_PAGE_BYTES = 2_000_000


class Source(NamedTuple):
    """Where dead letters are: a Kafka topic, or Redis if that is None."""

    topic: str | None

    def __str__(self) -> str:
        return REDIS if self.topic is None else self.topic


IN_REDIS = Source(None)


def read_source(text: str) -> Source:
    """Read `redis`, the name of a topic, or `kafka:` and the name of a topic.

    Raises:
        InvalidSettingError: if no topic can have this name.
    """
    if text == REDIS:
        return IN_REDIS
    topic = text.removeprefix(_KAFKA).removeprefix("//") if isinstance(text, str) else text
    return Source(check_topic(topic, "source"))


class Cursor(NamedTuple):
    """Where to go on: behind a place in Redis, or at offsets of a topic."""

    source: Source
    after: Position | None = None
    offsets: Mapping[int, int] = {}

    def __str__(self) -> str:
        if self.source.topic is not None:
            offsets = ",".join(f"{partition}={offset}" for partition, offset in sorted(self.offsets.items()))
            return f"kafka:{self.source.topic}:{offsets}"
        return "redis:0:" if self.after is None else f"redis:{self.after.ms}:{self.after.id}"

    @classmethod
    def read(cls, text: str) -> Cursor:
        """Read what `str` has made.

        Raises:
            InvalidSettingError: if it is something else.
        """
        if isinstance(text, str):
            if found := _IN_REDIS.fullmatch(text):
                return cls(IN_REDIS, Position(int(found[1]), found[2]))
            if found := _IN_TOPIC.fullmatch(text):
                pairs = [part.split("=") for part in found[2].split(",") if part]
                return cls(Source(found[1]), None, {int(partition): int(offset) for partition, offset in pairs})
        raise InvalidSettingError("after", text, "it is the `next` of a page, or the position of a replay")


class Extent(NamedTuple):
    """What there is in a source at some time, so that later walks leave out what comes after it.

    Attributes:
        total: how many letters there are; for a topic an upper bound.
        until_ms: in Redis, the time.
        ends: in a topic, partition -> the offset behind its last record.
    """

    total: int = 0
    until_ms: int | None = None
    ends: Mapping[int, int] | None = None


class Access:
    """Opens Redis and Kafka for what is read.

    Args:
        open_schedule: opens the schedule of rebound's queue.
        asking: surrounds calls of the schedule, and nothing else; it raises UnreachableError if Redis does not answer.
        settings: gives the app's settings.
        clock: tells the time.
    """

    def __init__(
        self,
        open_schedule: Callable[[], AbstractContextManager[Schedule]],
        asking: Callable[[], AbstractContextManager[None]],
        settings: Callable[[], Settings],
        clock: Clock,
    ) -> None:
        self._open = open_schedule
        self.asking = asking
        self._settings = settings
        self.clock = clock

    @property
    def settings(self) -> Settings:
        return self._settings()

    @contextmanager
    def schedule(self) -> Iterator[Schedule]:
        """Open the schedule of rebound's queue.

        Raises:
            UnreachableError: if Redis does not answer.
        """
        with self.asking():
            opened = self._open()
            schedule = opened.__enter__()
        try:
            yield schedule
        finally:
            opened.__exit__(None, None, None)

    def topics(self) -> AbstractContextManager[Any]:
        """Connect to the app's Kafka."""
        # Imported here: kafka takes longer to import than the rest of this package.
        from .topic_reader import topics_of

        return topics_of(self.settings, self.clock)

    def sources(self) -> list[Source]:
        """Redis, and the topics of the app's Kafka that are dead letter topics by their names."""
        with self.topics() as topics:
            return [IN_REDIS, *map(Source, topics.names())]


class Walk:
    """Gives the letters of one source, the earliest first. Iterate over it once.

    Args:
        access: opens Redis and Kafka.
        source: where the letters are.
        cursor: where to begin; None means at the beginning.
        chosen: letters in Redis that this filter's times exclude may be left out.
        extent: leave out what came later. Without it a topic is read up to where it ends at the beginning.
    """

    def __init__(
        self,
        access: Access,
        source: Source,
        cursor: Cursor | None = None,
        chosen: Filter = NO_FILTER,
        extent: Extent = Extent(),  # noqa: B008 - it cannot be changed
    ) -> None:
        self._access = access
        self._source = source
        self._chosen = chosen
        self._extent = extent
        times = [time_ms for time_ms in (extent.until_ms, chosen.died_to_ms) if time_ms is not None]
        self._until_ms = min(times, default=None)
        self._after = None if cursor is None else cursor.after
        self._offsets = {} if cursor is None else dict(cursor.offsets)
        #: How many letters were read.
        self.read = 0
        #: How many there were at the beginning; see `DeadLetters.count`.
        self.total = 0

    @property
    def cursor(self) -> Cursor:
        """Where to go on behind the letter that was given last."""
        return Cursor(self._source, self._after, self._offsets)

    def rest(self) -> Walk:
        """A walk through what was not given yet."""
        return Walk(self._access, self._source, self.cursor, self._chosen, self._extent)

    def __iter__(self) -> Iterator[Letter]:
        return self._in_redis() if self._source.topic is None else self._in_topic(self._source.topic)

    def _in_redis(self) -> Iterator[Letter]:
        keys, size, after, chosen = self._access.settings.encryption_keys, _PAGE, self._after, self._chosen
        if chosen.died_from_ms is not None:
            after = max(after or Position(0, ""), Position(chosen.died_from_ms, ""))
        with self._access.schedule() as schedule:
            with self._access.asking():
                self.total = schedule.counts().dead
            while True:
                with self._access.asking():
                    page = schedule.dead(after, size)
                for letter in letters_of(page.letters, keys):
                    if self._until_ms is not None and (letter.view.died_ms or 0) > self._until_ms:
                        return
                    self.read += 1
                    self._after = letter.place
                    yield letter
                after = page.next
                if after is None:
                    return
                if page.letters:
                    average = sum(len(entry.stored) for entry in page.letters) // len(page.letters)
                    size = min(_LARGEST, max(1, _PAGE_BYTES // max(1, average)))

    def _in_topic(self, topic: str) -> Iterator[Letter]:
        suffix = self._access.settings.dead_letter_suffix
        with self._access.topics() as topics:
            bounds = topics.bounds(topic)
            self.total = sum(
                max(0, end - max(begin, self._offsets.get(part, 0))) for part, (begin, end) in bounds.items()
            )
            for record in topics.records(topic, self._offsets, bounds, self._extent.ends):
                letter = letter_of_record(record, suffix, record.timestamp_type)
                self.read += 1
                self._offsets[record.partition] = record.offset + 1
                yield letter
