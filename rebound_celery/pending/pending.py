"""`app.rebound.pending`: what waits in the schedule, as every face of rebound shows and steers it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from ..clock import SYSTEM_CLOCK, Clock
from ..delivery.lanes import is_of_lane
from ..delivery.steering import Destination, lane_name
from ..errors import InvalidSettingError
from ..message import Message
from ..message.encryption import NO_KEYS, KeyRing
from ..schedule.port import Counts, Position, Schedule, Waiting
from ..selection import (
    NO_FILTER,
    ActionResult,
    Filter,
    PendingView,
    Progress,
    check_choice,
    check_count,
    check_filter,
    check_limit,
    read_time_ms,
    refuse_seconds,
)
from . import acting, paging
from .access import Access
from .paging import PendingPage
from .reading import decode
from .stats import QueueStats

#: The largest page of `list`.
LARGEST_PAGE = 1_000

Tell = Callable[[Progress], object]


class Pending:
    """What waits in the schedule: retries, dead letters on their way, and ordinary Celery tasks with a countdown.

    Every method takes `queue`, the name of a Celery queue of the app; None is rebound's own. An id is that of a Celery
    task, as views have it, or that of a message, which may have several entries. Every method raises UnreachableError
    if Redis does not answer.

    Args:
        app: the Celery app.
        open_schedule: opens the schedule of rebound's queue.
        queue: tells the name of that queue.
        keys: tells the keys that open stored messages.
        clock: tells the time.
        revoked: tells of removed tasks, given the name of their queue.
    """

    def __init__(
        self,
        app: Any,
        open_schedule: Callable[[], AbstractContextManager[Schedule]],
        queue: Callable[[], str],
        keys: Callable[[], KeyRing] = lambda: NO_KEYS,
        clock: Clock = SYSTEM_CLOCK,
        *,
        revoked: Callable[[str, Sequence[Waiting]], None] = lambda _queue, _removed: None,
    ) -> None:
        self._access = Access(app, open_schedule, queue, keys, clock)
        self._clock = clock
        self._revoked = revoked

    # looking

    def list(
        self,
        filter: Filter | None = None,  # noqa: A002 - the field's own word
        after: str | None = None,
        limit: int = 100,
        *,
        queue: str | None = None,
        leased: bool = False,
        arguments: bool = False,
        read: int | None = None,
        progress: Tell | None = None,
    ) -> PendingPage:
        """Return a page of what waits, by due time.

        Args:
            filter: which entries are meant; None means all.
            after: the `next` of the page before.
            limit: the largest number of entries; 1 to 1,000.
            queue: see above.
            leased: list what workers hold, by the end of the lease, and not what waits.
            arguments: show the arguments of Celery tasks.
            read: with a filter, stop after about so many entries even if the page is not full. Its `next` reads on.
            progress: with a filter, called after each page that is read.

        Raises:
            InvalidSettingError: if `after` or `limit` is wrong.
        """
        if type(limit) is not int or not 1 <= limit <= LARGEST_PAGE:
            raise InvalidSettingError("limit", limit, f"it is a whole number from 1 to {LARGEST_PAGE:,}")
        check_filter(filter)
        check_count("read", read)
        chosen, position = filter or NO_FILTER, paging.read_after(after)
        views: list[PendingView] = []
        count, read_so_far = (limit if chosen.is_empty else None), 0
        with self._access.open(queue) as opened:
            total = opened.total(leased=leased) if progress is not None and count is None else 0
            for part in opened.parts(chosen, after=position, count=count, leased=leased, arguments=arguments):
                read_so_far += part.read
                room = limit - len(views)
                views += [each.view for each in part.found[:room]]
                if progress is not None:
                    progress(Progress(read_so_far, total, len(views)))
                if len(part.found) > room:
                    last = part.found[room - 1].entry
                    return PendingPage(views, paging.to_text(Position(last.due_ms, last.id)), read_so_far)
                if len(views) == limit or (read is not None and read_so_far >= read):
                    return PendingPage(views, None if part.next is None else paging.to_text(part.next), read_so_far)
        return PendingPage(views, None, read_so_far)

    def iterate(
        self,
        filter: Filter | None = None,  # noqa: A002
        *,
        queue: str | None = None,
        leased: bool = False,
        arguments: bool = False,
        progress: Tell | None = None,
    ) -> Iterator[PendingView]:
        """Give all that waits and fits, by due time, reading page by page.

        What is stored, moved or delivered meanwhile may be missing, or come twice.

        Args:
            filter, queue, leased, arguments: see `list`.
            progress: called after each page.
        """
        check_filter(filter)
        matched = read = 0
        with self._access.open(queue) as opened:
            total = opened.total(leased=leased) if progress is not None else 0
            for part in opened.parts(filter or NO_FILTER, leased=leased, arguments=arguments):
                read, matched = read + part.read, matched + len(part.found)
                if progress is not None:
                    progress(Progress(read, total, matched))
                for found in part.found:
                    yield found.view

    def get(self, id: str, *, queue: str | None = None, arguments: bool = False) -> PendingView | None:  # noqa: A002
        """Return what waits, or is held by a worker, under this id; None if there is nothing.

        If a message has several entries, it is the one that is due first.
        """
        with self._access.open(queue) as opened:
            views = opened.views(opened.entries(id), arguments=arguments)
        return min(views, key=lambda view: (view.leased, view.due_ms or 0), default=None)

    def message(self, id: str, *, queue: str | None = None) -> Message | None:  # noqa: A002
        """Return the message that waits under this id, with its value; None if there is none that can be read."""
        with self._access.open(queue) as opened:
            decoded = decode(opened.entries(id), opened.keys)
        return next((found[0] for found in decoded if isinstance(found, tuple)), None)

    def counts(self, *, queue: str | None = None) -> Counts:
        """Return how many entries wait, are held by workers, are dead letters in Redis, and wait in each lane."""
        with self._access.open(queue) as opened:
            return opened.counts

    def count(
        self,
        destination: Destination | None = None,
        filter: Filter | None = None,  # noqa: A002
        *,
        queue: str | None = None,
        progress: Tell | None = None,
    ) -> int:
        """Return how many entries wait.

        Without a filter nothing is read for it: Redis has the numbers.

        Args:
            destination: those of one destination, or of its lane: a Kafka topic, or all URLs of a host.
            filter: those that fit; all entries are read for it.
            queue: see above.
            progress: called after each page that a filter reads.
        """
        check_filter(filter)
        if filter is None or filter.is_empty:
            counts = self.counts(queue=queue)
            if destination is None:
                return counts.waiting
            whole = lane_name(destination)
            return sum(count for name, count in counts.by_lane.items() if is_of_lane(name, whole))
        lane = None if destination is None else lane_name(destination)
        views = self.iterate(filter, queue=queue, progress=progress)
        return sum(1 for view in views if lane is None or is_of_lane(view.lane, lane))

    def stats(self, *, queue: str | None = None) -> QueueStats:
        """Return the numbers of a queue: what there is of each kind, what is late, and its counters."""
        with self._access.open(queue) as opened, opened.asking():
            return QueueStats.read(opened.name, opened.schedule, opened.counts)

    # steering

    def run_now(
        self,
        *ids: str,
        filter: Filter | None = None,  # noqa: A002
        queue: str | None = None,
        dry_run: bool = False,
        limit: int | None = None,
        progress: Tell | None = None,
    ) -> ActionResult:
        """Make entries due now: those with these ids, or all that fit the filter.

        Args:
            ids: of Celery tasks or of messages.
            filter: instead of ids. What is due already is left out.
            queue: see above.
            dry_run: change nothing, and say how many it would be.
            limit: with a filter, change at most so many, in the order of their due times.
            progress: with a filter, called after each page.

        Raises:
            InvalidSettingError: if there are neither ids nor a filter, or both.
        """
        return self._act(acting.RUN_NOW, None, ids, filter, queue, limit, progress, dry_run=dry_run)

    def reschedule(
        self,
        due: object,
        *ids: str,
        filter: Filter | None = None,  # noqa: A002
        queue: str | None = None,
        dry_run: bool = False,
        limit: int | None = None,
        progress: Tell | None = None,
    ) -> ActionResult:
        """Make entries due at a time: those with these ids, or all that fit the filter; see `run_now`.

        Args:
            due: Unix milliseconds, a datetime, ISO 8601, or a time from now such as `+10min`.
            ids, filter, queue, dry_run, limit, progress: see `run_now`. What is due at that time already is left out.
        """
        if type(due) is int:
            # It would make a whole backlog due at once.
            refuse_seconds("due", due)
        due_ms = read_time_ms("due", due, self._clock.now_ms())
        return self._act(acting.RESCHEDULE, due_ms, ids, filter, queue, limit, progress, dry_run=dry_run)

    def cancel(
        self,
        *ids: str,
        filter: Filter | None = None,  # noqa: A002
        queue: str | None = None,
        dry_run: bool = False,
        limit: int | None = None,
        progress: Tell | None = None,
    ) -> ActionResult:
        """Remove entries for good: those with these ids, or all that fit the filter; see `run_now`.

        Their Celery tasks end as revoked ones: in result backend, events and signals. A record behind it, of a consumer
        with `ordering`, goes on. What a worker holds is left alone.
        """
        return self._act(acting.CANCEL, None, ids, filter, queue, limit, progress, dry_run=dry_run)

    def to_celery(
        self,
        *ids: str,
        filter: Filter | None = None,  # noqa: A002
        queue: str | None = None,
        dry_run: bool = False,
        limit: int | None = None,
        progress: Tell | None = None,
    ) -> ActionResult:
        """Move ordinary Celery tasks to the list of their queue, for workers without rebound; see `run_now`. Stop the
        queue's workers that have rebound before: they would take the tasks back into the schedule."""
        return self._act(acting.HAND_BACK, None, ids, filter, queue, limit, progress, dry_run=dry_run)

    def _act(
        self,
        action: str,
        due_ms: int | None,
        ids: Sequence[str],
        chosen: Filter | None,
        queue: str | None,
        limit: int | None,
        progress: Tell | None,
        *,
        dry_run: bool,
    ) -> ActionResult:
        check_choice(ids, chosen)
        check_limit(ids, limit)
        with self._access.open(queue) as opened:
            tell = self._access.put_on_list if action == acting.HAND_BACK else self._revoked
            change = acting.Change(opened, action, due_ms, tell, dry_run=dry_run)
            if chosen is None:
                return acting.on_ids(change, ids)
            return acting.on_all(change, chosen, limit, progress, self._clock.now_ms)
