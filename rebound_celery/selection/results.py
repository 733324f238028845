"""What a search tells on its way, and what became of an action."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class Progress(NamedTuple):
    """How far a search is, or an action on all that match a filter.

    Attributes:
        read: how many entries were read.
        total: how many there were when it began. More may come, so that `read` may exceed it.
        matched: how many of them fit the filter.
        changed: how many were changed.
    """

    read: int
    total: int
    matched: int = 0
    changed: int = 0


class ActionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an action on entries by their ids, or on all that match a filter.

    Attributes:
        action: its name, such as "run-now".
        dry_run: whether nothing was to be changed.
        matched: how many entries were meant and found.
        changed: how many were changed.
        leased: the given ids of entries that a worker holds. They are being delivered and were left alone.
        unknown: the given ids under which there is nothing: never, or no more.
        refused: the given ids of entries with which this cannot be done, and the kind of each: "retry", "dead-letter",
            "unreadable" or "job-step". So are retries with "to-celery", because they are no Celery tasks of the app.
        disabled: the HTTP endpoints of changed entries that are disabled: what is due for them waits all the same.
        kept: how many such entries there were, also with a filter.
    """

    action: str
    dry_run: bool = False
    matched: int = 0
    changed: int = 0
    leased: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    disabled: tuple[str, ...] = ()
    kept: int = 0

    @property
    def missed(self) -> int:
        """How many were found, but were delivered or removed before they could be changed."""
        return 0 if self.dry_run else self.matched - self.changed

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it, with stable keys."""
        return {
            "action": self.action,
            "dry_run": self.dry_run,
            "matched": self.matched,
            "changed": self.changed,
            "missed": self.missed,
            "leased": list(self.leased),
            "unknown": list(self.unknown),
            "refused": dict(self.refused),
            "disabled": list(self.disabled),
            "kept": self.kept,
        }
