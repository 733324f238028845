"""Replays dead letters: stores messages in their places, step by step, and keeps the order of each key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..message.address import Address, parse_address
from ..selection import NO_FILTER, Filter
from .again import MAX_REPLAYS, NotReplayableError, prepare
from .letter import Letter
from .passing import Passing
from .replay_values import Order, Passed, Replaced, ReplayResult, Store, check_options
from .walking import Access, Cursor, Walk

#: How many letters a step stores, and reads, at most.
_BATCH = 500
_READ = 2_000
#: How many letters, and how many bytes, wait in memory for an earlier letter with their key.
_AHEAD = 1_000
_AHEAD_BYTES = 16_000_000
#: How many letters with keys are on their way at once. Their ids are in memory.
_UNDERWAY = 5_000
#: How often it is looked which of them were delivered, in seconds.
_LOOK_S = 0.5
#: The pause before the next step, where letters wait for earlier ones: the first one. Each further one is twice as
#: long, up to the time between two looks.
_PAUSE_S = 0.02
#: How many problems a result names.
_PROBLEMS = 10
#: A rate allows so many seconds' letters at once.
_BURST_S = 0.1


class _Next(NamedTuple):
    """A letter that is to be stored. `order` is what its order is kept by; None for no order."""

    letter: Letter
    replaced: Replaced
    order: Order | None


class Replay:
    """One replay, made step by step. Close it at the end.

    `step` stores the next letters and returns how far it is; call it until that is `done`, after a pause of `wait_s`
    seconds. A replay that ends early goes on where a result's `position` says, or at the beginning: what was stored is
    not stored again.

    Args:
        access: opens Redis and Kafka.
        store: stores messages in the places of dead letters.
        walk: gives the letters.
        letters: instead of `walk`: id -> the letter, None if there is none.
        filter: which letters of the walk are meant.
        target, limit, rate, dry_run, again, max_replays: see `DeadLetters.replay`.
        underway: what an earlier replay, which this one goes on with, had as `underway`.

    Raises:
        InvalidSettingError: naming an option that is wrong.
    """

    def __init__(
        self,
        access: Access,
        store: Store,
        *,
        walk: Walk | None = None,
        letters: Mapping[str, Letter | None] | None = None,
        filter: Filter | None = None,  # noqa: A002 - the field's own word
        target: str | Mapping[str, Any] | Address | None = None,
        limit: int | None = None,
        rate: float | None = None,
        dry_run: bool = False,
        again: bool = False,
        max_replays: int = MAX_REPLAYS,
        underway: Mapping[Order, str] | None = None,
    ) -> None:
        check_options(limit, rate, max_replays)
        self._access = access
        self._store = store
        self._walk = walk
        self._filter = filter or NO_FILTER
        self._target = None if target is None else parse_address(target, field="target")
        self._limit = limit
        self._rate = rate
        self._dry_run = dry_run
        self._again = again
        self._max_replays = max_replays
        found = {} if letters is None else letters
        self._unknown = tuple(identity for identity, letter in found.items() if letter is None)
        given = [letter for letter in found.values() if letter is not None]
        self._total = len(given)
        self._letters: Iterator[Letter] = iter(given if walk is None else walk)
        self._is_read = False
        self._ahead: list[_Next] = []
        #: Order -> the id of its last letter's task, and the letter's place.
        self._underway: dict[Order, tuple[str, int | None, int | None]] = {
            order: (task_id, None, None) for order, task_id in (underway or {}).items()
        }
        self._passing = Passing(None if walk is None else walk.cursor.after)
        self._counts = dict.fromkeys(("read", "matched", "replayed", "parked", "repeated", "left"), 0)
        self._problems: list[str] = []
        self._credit = 1.0
        self._credited_s = self._looked_s = access.clock.monotonic()
        self._pause_s = _PAUSE_S
        self._unclaimed_ms = 0
        #: How long to wait before the next step, in seconds.
        self.wait_s = 0.0

    def run(self, progress: Callable[[ReplayResult], object] | None = None) -> ReplayResult:
        """Make all steps; returns the result of the last one."""
        while True:
            result = self.step()
            if progress is not None:
                progress(result)
            if result.done:
                return result
            if self.wait_s:
                self._access.clock.sleep(self.wait_s)

    def step(self) -> ReplayResult:
        """Store the next letters.

        Raises:
            UnreachableError: if Redis or Kafka does not answer. It may be called again.
        """
        self._read_ahead()
        self._look()
        chosen = self._choose()
        if chosen:
            self._send(chosen)
        is_over = (self._is_read and not self._ahead) or self._room == 0
        if not chosen and not is_over and (self._ahead or self._rate):
            self.wait_s = max(self.wait_s, self._pause_s) if self._ahead else 0.0
            self._pause_s = min(_LOOK_S, 2 * self._pause_s)
        elif chosen:
            self.wait_s, self._pause_s = 0.0, _PAUSE_S
        return self._result(done=is_over)

    def close(self) -> None:
        """Close the connections with which letters are read."""
        self._is_read = True
        if self._walk is not None and isinstance(self._letters, Iterator):
            self._letters.close()  # type: ignore[attr-defined]

    # reading

    def _read_ahead(self) -> None:
        last = self._counts["read"] + _READ
        size_bytes = sum(each.letter.view.size_bytes or 0 for each in self._ahead)
        while not self._is_read and len(self._ahead) < _AHEAD and self._counts["read"] < last:
            if size_bytes >= _AHEAD_BYTES:
                return
            letter = self._next()
            if letter is None:
                self._is_read = True
                return
            self._counts["read"] += 1
            seen = self._passing.add(letter)
            if not self._filter.matches(letter.view, self._access.clock.now_ms()):
                continue
            self._counts["matched"] += 1
            seen.matched = True
            try:
                message, is_parked = prepare(letter, self._access.settings, self._target, self._max_replays)
            except NotReplayableError as error:
                self._counts["left"] += 1
                seen.left = True
                if len(self._problems) < _PROBLEMS:
                    self._problems.append(f"{letter.view.id}: {error.allowed}")
                continue
            replaced = Replaced.of(message, letter.view, "parked" if is_parked else "replayed")
            size_bytes += letter.view.size_bytes or 0
            self._ahead.append(_Next(letter, replaced, replaced.order))

    def _next(self) -> Letter | None:
        """The next letter; None at the end. After an error, the next call goes on with the same one."""
        try:
            return next(self._letters, None)
        except BaseException:
            if self._walk is not None:
                self._walk = self._walk.rest()
                self._letters = iter(self._walk)
            raise

    # storing

    @property
    def _room(self) -> int | None:
        """How many letters may still be stored; None for any number."""
        return None if self._limit is None else self._limit - self._counts["replayed"] - self._counts["parked"]

    def _choose(self) -> list[_Next]:
        """Take the letters that may be stored now: none before an earlier one with its key is delivered."""
        most = _BATCH if self._room is None else min(_BATCH, self._room)
        most = min(most, self._allowed())
        chosen: list[_Next] = []
        kept: list[_Next] = []
        blocked = set(self._underway)
        for each in self._ahead:
            is_free = each.order is None or (each.order not in blocked and len(blocked) < _UNDERWAY)
            if len(chosen) < most and (is_free or self._dry_run):
                chosen.append(each)
            else:
                kept.append(each)
            if each.order is not None:
                blocked.add(each.order)
        self._ahead = kept
        return chosen

    def _allowed(self) -> int:
        """How many letters the rate allows now."""
        now_s = self._access.clock.monotonic()
        if self._rate is None or self._dry_run:
            return _BATCH
        burst = max(1.0, self._rate * _BURST_S)
        self._credit = min(burst, self._credit + (now_s - self._credited_s) * self._rate)
        self._credited_s = now_s
        self.wait_s = 0.0 if self._credit >= 1 else min(1.0, (1 - self._credit) / self._rate)
        return int(self._credit)

    def _send(self, chosen: Sequence[_Next]) -> None:
        if self._dry_run:
            stored: Sequence[bool] = [True] * len(chosen)
        else:
            try:
                with self._access.schedule() as schedule, self._access.asking():
                    stored = self._store(schedule, [each.replaced for each in chosen], again=self._again)
            except BaseException:
                # Whatever of it is stored is not stored again.
                self._ahead = [*chosen, *self._ahead]
                raise
        self._credit -= sum(stored)
        for each, is_stored in zip(chosen, stored, strict=True):
            self._counts[each.replaced.counter if is_stored else "repeated"] += 1
            view = each.letter.view
            self._passing.store(each.letter, is_stored=is_stored)
            # What was stored before may still be on its way, too.
            if each.order is not None and not self._dry_run:
                self._underway[each.order] = each.replaced.task_id, view.partition, view.offset

    def _look(self) -> None:
        """Forget the letters that were delivered, if it is time to look or letters wait for that."""
        now_s = self._access.clock.monotonic()
        waits = len(self._underway) >= _UNDERWAY or self._waiting > 0
        self._unclaimed_ms = 0
        if not self._underway or not (waits or now_s - self._looked_s >= _LOOK_S):
            return
        with self._access.schedule() as schedule, self._access.asking():
            known = set(schedule.known([task_id for task_id, _, _ in self._underway.values()]))
            self._unclaimed_ms = schedule.unclaimed_ms() if waits else 0
        self._underway = {order: place for order, place in self._underway.items() if place[0] in known}
        self._looked_s = now_s

    # telling

    @property
    def _waiting(self) -> int:
        """How many letters wait until an earlier one with their key is delivered."""
        return sum(1 for each in self._ahead if each.order in self._underway)

    @property
    def underway(self) -> Mapping[Order, str]:
        """What is on its way as far as is known: what order is kept by -> the id of its last letter's task."""
        return {order: task_id for order, (task_id, _, _) in self._underway.items()}

    @property
    def passed(self) -> Passed:
        """What a replay that goes on at the position of the last result will not read again."""
        return self._passing.passed

    def _result(self, *, done: bool) -> ReplayResult:
        return ReplayResult(
            dry_run=self._dry_run,
            total=self._total if self._walk is None else self._walk.total,
            problems=tuple(self._problems),
            unknown=self._unknown,
            waiting=self._waiting,
            unclaimed_ms=self._unclaimed_ms,
            position=self._position(),
            done=done,
            **self._counts,
        )

    def _position(self) -> str | None:
        """Where to go on: no later than the first letter that is not delivered yet."""
        if self._walk is None:
            return None
        cursor = self._walk.cursor
        if cursor.source.topic is None:
            waiting = {each.letter.view.id for each in self._ahead}
            return str(Cursor(cursor.source, self._passing.place(waiting, cursor.after)))
        offsets = dict(cursor.offsets)
        places = [(each.letter.view.partition, each.letter.view.offset) for each in self._ahead]
        for partition, offset in [*places, *((place[1], place[2]) for place in self._underway.values())]:
            if partition is not None and offset is not None:
                offsets[partition] = min(offset, offsets.get(partition, offset))
        self._passing.pass_offsets(offsets)
        return str(Cursor(cursor.source, None, offsets))
