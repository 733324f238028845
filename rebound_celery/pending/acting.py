"""Acts on what waits: on entries by their ids, or on all that fit a filter."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..schedule.port import Waiting, tell_revoked
from ..selection import JOB_STEP, TASK, ActionResult, Filter, PendingView, Progress
from .access import OpenQueue
from .reading import endpoint_of

RUN_NOW = "run-now"
RESCHEDULE = "reschedule"
CANCEL = "cancel"
HAND_BACK = "to-celery"

#: Celery tasks of rebound's own, with the word for each: workers without rebound do not have them.
_OWN_TASKS = {"rebound.job": JOB_STEP}

#: How many entries one script of Redis changes: 500 of them can take more than 10 ms.
_AT_ONCE = 100

Revoked = Callable[[str, Sequence[Waiting]], None]


@dataclass(slots=True)
class Change:
    """What is done to entries.

    Attributes:
        opened: the queue in which they wait.
        action: RUN_NOW, RESCHEDULE, CANCEL or HAND_BACK.
        due_ms: when they are to be due, with RESCHEDULE.
        revoked: tells of tasks that were removed. With HAND_BACK, it puts them elsewhere before they are removed.
        dry_run: whether nothing is changed.
    """

    opened: OpenQueue
    action: str
    due_ms: int | None
    revoked: Revoked
    dry_run: bool = field(kw_only=True)

    def make(self, entries: Sequence[Waiting]) -> int:
        """Change waiting entries; returns how many were still there."""
        if self.dry_run or not entries:
            return 0
        parts = (entries[start : start + _AT_ONCE] for start in range(0, len(entries), _AT_ONCE))
        return sum(map(self._make, parts))

    def _make(self, entries: Sequence[Waiting]) -> int:
        ids = [entry.id for entry in entries]
        with self.opened.asking():
            if self.action == RUN_NOW:
                return self.opened.schedule.run_now(*ids)
            if self.action == RESCHEDULE:
                assert self.due_ms is not None
                return self.opened.schedule.reschedule(self.due_ms, *ids)
            if self.action == HAND_BACK:
                # If this ends between the two, a task is there twice, and not lost.
                self.revoked(self.opened.name, entries)
                return len(self.opened.schedule.cancel_each(*ids))
            removed = self.opened.schedule.cancel_each(*ids)
        self.revoked(self.opened.name, [entry for entry in entries if entry.id in removed])
        return len(removed)

    def leaves_out(self, entry: Waiting, now_ms: int) -> bool:
        """Whether it would change nothing. What was moved to a later time comes again on a later page."""
        if self.action == RUN_NOW:
            return entry.due_ms <= now_ms
        return self.action == RESCHEDULE and entry.due_ms == self.due_ms

    def refusal(self, view: PendingView) -> str | None:
        """What an entry is, if it is nothing that this action can change; None if it can."""
        if self.action != HAND_BACK:
            return None
        return _OWN_TASKS.get(view.task or "") if view.kind == TASK else view.kind

    def result(self, matched: int, changed: int, **more: Any) -> ActionResult:
        """What became of it."""
        return ActionResult(action=self.action, dry_run=self.dry_run, matched=matched, changed=changed, **more)


def on_ids(change: Change, ids: Iterable[str]) -> ActionResult:
    """Change the entries with these ids, of tasks or of messages."""
    matched: dict[str, Waiting] = {}
    leased, unknown = [], []
    refused: dict[str, str] = {}
    disabled: dict[str, None] = {}
    for identity in dict.fromkeys(ids):
        entries = change.opened.entries(identity)
        waiting = [entry for entry in entries if not entry.leased]
        views = change.opened.views(waiting)
        disabled |= disabled_of(views)
        refusals = [change.refusal(view) for view in views]
        matched |= {entry.id: entry for entry, refusal in zip(waiting, refusals, strict=True) if refusal is None}
        if not entries:
            unknown.append(identity)
        elif not waiting:
            leased.append(identity)
        elif None not in refusals:
            refused[identity] = next(filter(None, refusals))
    changed = change.make(list(matched.values()))
    return change.result(
        len(matched),
        changed,
        leased=tuple(leased),
        unknown=tuple(unknown),
        refused=refused,
        disabled=tuple(disabled),
        kept=len(refused),
    )


def disabled_of(views: Iterable[PendingView]) -> dict[str, None]:
    """The disabled endpoints to which entries go, each once, in their order."""
    return {name: None for view in views if view.disabled_since_ms is not None and (name := endpoint_of(view))}


def on_all(
    change: Change,
    chosen: Filter,
    limit: int | None,
    progress: Callable[[Progress], object] | None,
    now_ms: Callable[[], int],
) -> ActionResult:
    """Change all entries that fit the filter, at most `limit`."""
    read = matched = changed = kept = 0
    disabled: dict[str, None] = {}
    total = change.opened.total()
    for part in change.opened.parts(chosen):
        time_ms = now_ms()
        possible = [found.entry for found in part.found if change.refusal(found.view) is None]
        disabled |= disabled_of(found.view for found in part.found)
        kept += len(part.found) - len(possible)
        entries = [entry for entry in possible if not change.leaves_out(entry, time_ms)]
        if limit is not None:
            entries = entries[: limit - matched]
        read, matched = read + part.read, matched + len(entries)
        changed += change.make(entries)
        if progress is not None:
            progress(Progress(read, total, matched, changed))
        if limit is not None and matched >= limit:
            break
    return change.result(matched, changed, disabled=tuple(disabled), kept=kept)


def teller_of(app: Any, is_silent: Callable[[], bool] = lambda: False) -> Revoked:
    """Return what tells of the removed tasks of an app.

    Args:
        app: the Celery app.
        is_silent: whether there is nobody to tell now.
    """

    def tell(queue: str, removed: Sequence[Waiting]) -> None:
        if not is_silent():
            tell_revoked(app, queue, removed)

    return tell
