"""Messages to store, put together by rank and lane as the script takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from . import envelope
from .keys import QueueKeys
from .values import Entry


class Group:
    """Messages of one lane and rank, as the script takes them."""

    __slots__ = ("arguments", "first_ms", "head", "reference")

    def __init__(self, reference: str, first_ms: int) -> None:
        self.reference = reference
        self.first_ms = first_ms
        self.head = envelope.head(reference)
        #: id, due time, envelope and stored form; repeated
        self.arguments: list[Any] = []

    def entries(self) -> Iterator[tuple[Any, int, bytes]]:
        arguments = self.arguments
        return zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True)


def grouped(keys: QueueKeys, entries: Sequence[Entry], *, keep: bool) -> list[Group]:
    """The groups of these messages. Of several with the same id the last one is in them; with `keep` the first."""
    groups: dict[tuple[str, int], Group] = {}
    for id_, due_ms, stored, lane, priority in entries:
        group = groups.get((lane, priority))
        if group is None:
            group = groups[lane, priority] = Group(f"{keys.rank_of(priority)}{lane}", due_ms)
        if due_ms < group.first_ms:
            group.first_ms = due_ms
        group.arguments += (id_, due_ms, group.head + stored)
    if len(groups) > 1:
        # The script takes one group after the other: of an id in several only one may be left.
        by_id = {entry[0]: entry for entry in (entries[::-1] if keep else entries)}
        if len(by_id) < len(entries):
            return grouped(keys, list(by_id.values()), keep=keep)
    return list(groups.values())


def chosen(groups: Iterable[Group], numbers: Iterable[int]) -> list[Group]:
    """Groups of those messages whose numbers, from 1, are given."""
    every = [(group.reference, entry) for group in groups for entry in group.entries()]
    found: dict[str, Group] = {}
    for reference, entry in (every[number - 1] for number in numbers):
        group = found.setdefault(reference, Group(reference, entry[1]))
        group.first_ms = min(group.first_ms, entry[1])
        group.arguments += entry
    return list(found.values())
