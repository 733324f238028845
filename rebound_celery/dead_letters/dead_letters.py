"""`app.rebound.dead_letters`: the dead letters in Redis and in Kafka topics, as every face of rebound shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from ..errors import InvalidSettingError
from ..message.address import Address
from ..selection import ActionResult, Filter, check_choice, check_limit
from . import editing, transfer
from .again import MAX_REPLAYS
from .looking import Looking, Tell, read_place
from .purging import purge_redis, purge_topic
from .replay_values import ReplayResult, Store
from .replaying import Replay
from .unclaimed import UnclaimedWarning
from .walking import Access, Cursor, Extent, Walk, read_source


class DeadLetters(Looking):
    """The dead letters in Redis and in Kafka topics.

    A `source` is "redis" or the name of a Kafka topic; None means Redis and all topics whose names end with the app's
    `rebound_dead_letter_suffix`. An id is that of a view: of a letter in a topic it is `topic:partition:offset`, and
    one in Redis is found by the id of its message too, and one in a topic by its place as
    log lines have it, `topic[partition]@offset`. Every method raises UnreachableError if Redis or Kafka does not
    answer, and NoTopicError (an InvalidSettingError) if there is no such topic.

    Args:
        access: opens Redis and Kafka.
        store: stores messages in the places of dead letters.
    """

    def __init__(self, access: Access, store: Store) -> None:
        super().__init__(access)
        self._store = store

    # acting

    def replay(
        self,
        *ids: str,
        filter: Filter | None = None,  # noqa: A002
        source: str | None = None,
        target: str | Mapping[str, Any] | Address | None = None,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        again: bool = False,
        max_replays: int = MAX_REPLAYS,
        progress: Callable[[ReplayResult], object] | None = None,
    ) -> ReplayResult:
        """Send dead letters again, from attempt 1: those with these ids, or all that fit the filter.

        It returns once all are stored in the schedule; workers deliver them. Of letters with the same key, each is
        stored once the one before is delivered. A letter leaves Redis in the same step in which its message is stored;
        one in a topic stays there, and is not replayed a second time unless `again` says so. So a replay that ends at
        any moment can be called again: it loses and repeats nothing.

        Args:
            ids: see above.
            filter: instead of ids; Filter() means all.
            source: with a filter, where the letters are. It has to be given.
            target: another destination than the one that they were for, as for `schedule_retry`.
            limit: replay at most so many.
            rate: replay at most so many a second.
            dry_run: store nothing, and count.
            again: also replay letters of topics that were replayed before.
            max_replays: a letter that was replayed so often goes to `{topic}-parked`.
            progress: called after each step. Without it, a warning is logged if no worker claims what letters wait for.

        Raises:
            InvalidSettingError: if there are neither ids nor a filter, or both, or an option is wrong.
        """
        replay = self.begin_replay(
            *ids,
            filter=filter,
            source=source,
            target=target,
            limit=limit,
            rate=rate,
            dry_run=dry_run,
            again=again,
            max_replays=max_replays,
        )
        with closing(replay):
            return replay.run(progress or UnclaimedWarning(lambda: self._access.settings.queue))

    def begin_replay(
        self,
        *ids: str,
        filter: Filter | None = None,  # noqa: A002
        source: str | None = None,
        after: str | None = None,
        extent: Extent | None = None,
        store: Store | None = None,
        **options: Any,
    ) -> Replay:
        """Return a replay that is made step by step; see `replay` and `Replay.step`.

        Args:
            ids, filter, source: see `replay`.
            after: the `position` of a result: the replay goes on there.
            extent: with a filter, leave out letters that came later; None means later than now.
            store: stores the messages; None means as usual.
            **options: the other arguments of `replay`, and `underway` of `Replay`.
        """
        check_choice(ids, filter)
        store = store or self._store
        if ids:
            letters = {identity: self.letter(identity) for identity in dict.fromkeys(ids)}
            return Replay(self._access, store, letters=letters, **options)
        if source is None:
            raise InvalidSettingError("source", source, "say whose dead letters: redis, or a topic")
        cursor = None if after is None else Cursor.read(after)
        place = read_source(source)
        if cursor is not None and cursor.source != place:
            raise InvalidSettingError("after", after, f"it is a position in {cursor.source}, and not in {source}")
        assert filter is not None
        # A letter that dies again meanwhile is left for the next replay.
        walk = Walk(self._access, place, cursor, filter, extent or Extent(0, self._access.clock.now_ms()))
        return Replay(self._access, store, walk=walk, filter=filter, **options)

    def edit(self, id: str, **changes: Any) -> str:  # noqa: A002
        """Send a changed dead letter, from attempt 1; returns the id of the Celery task that delivers it.

        The letter itself is kept as it is. The header `rebound-edited` says what was changed, and of which letter. The
        same change that is made twice is stored once, as long as it waits.

        Args:
            id: see above.
            **changes: `value`, `key` and `headers` as for `schedule_retry`, and `target` as for `replay`. What is not
                given stays as it is.

        Raises:
            InvalidSettingError: if there is no such letter, or a change cannot be used.
        """
        letter = self.letter(id)
        if letter is None:
            raise InvalidSettingError("id", id, "there is no dead letter with this id, or no more")
        return editing.edit(self._access, self._store, letter, **changes)

    def purge(
        self,
        *ids: str,
        filter: Filter | None = None,  # noqa: A002
        source: str | None = None,
        up_to: str | None = None,
        dry_run: bool = False,
        limit: int | None = None,
        progress: Tell | None = None,
    ) -> ActionResult:
        """Remove dead letters for good.

        In Redis: those with these ids, or all that fit the filter. Kafka deletes records only from the beginning of a
        partition up to an offset: so of a topic either all records that are there now are deleted (`source`, with the
        filter `Filter()`), or those of one partition up to a letter (`up_to`).

        Args:
            ids: of letters in Redis.
            filter: instead of ids; Filter() means all.
            source: with a filter, where the letters are. It has to be given.
            up_to: instead of both: the id of the last letter of a partition that is deleted.
            dry_run: remove nothing, and say how many it would be; for a topic an upper bound, as `count`.
            limit: with a filter, remove at most so many.
            progress: with a filter, called after each page.

        Raises:
            InvalidSettingError: if it is not clear what is meant, or Kafka cannot do it.
        """
        if up_to is not None:
            if ids or filter is not None or source is not None or limit is not None:
                raise InvalidSettingError("up_to", up_to, "it says all: leave out ids, filter, source and limit")
            place = read_place(up_to) if isinstance(up_to, str) else None
            if place is None:
                raise InvalidSettingError("up_to", up_to, "it is the id of a letter in a topic: topic:partition:offset")
            return purge_topic(self._access, place[0], {place[1]: place[2] + 1}, dry_run=dry_run)
        check_choice(ids, filter)
        check_limit(ids, limit)
        if ids:
            return purge_redis(self._access, ids=ids, dry_run=dry_run)
        assert filter is not None
        if source is None:
            raise InvalidSettingError("source", source, "say whose dead letters: redis, or a topic")
        topic = read_source(source).topic
        if topic is None:
            return purge_redis(self._access, chosen=filter, dry_run=dry_run, limit=limit, progress=progress)
        if not filter.is_empty:
            raise InvalidSettingError(
                "filter", str(filter), "Kafka cannot delete single records: give none, or up_to, for a topic"
            )
        if limit is not None:
            raise InvalidSettingError("limit", limit, "Kafka cannot delete single records: give up_to for a topic")
        return purge_topic(self._access, topic, None, dry_run=dry_run)

    # moving

    def export(
        self,
        filter: Filter | None = None,  # noqa: A002
        source: str | None = None,
        *,
        progress: Tell | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Give each dead letter that fits as JSON has it, with its value; `import_` reads it.

        It has the destinations as they are, with user and query of a URL.
        """
        for letter in self.letters(filter, source, progress=progress):
            yield transfer.to_dict(letter)

    def import_(self, letters: Iterable[Mapping[str, Any]]) -> int:
        """Keep exported dead letters in Redis; returns how many. One that is there already is replaced.

        Raises:
            InvalidSettingError: naming the letter by its number, from 1, and what is wrong. Those before it are kept.
        """
        return transfer.import_letters(self._access, letters)
