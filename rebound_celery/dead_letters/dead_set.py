"""Reading the dead set: the dead letters that are kept in Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ..errors import UnknownVersionError, WireFormatError
from ..message import Message, codec, message_id_of
from ..policy import MAX_RETRIES_LIMIT
from ..schedule.port import DeadEntry, Schedule

#: How many dead letters are read at a time.
_PAGE = 100


class DeadSet:
    """The dead letters that are kept in Redis, because they had no topic or URL to go to. They are never trimmed.

    Iterate over it for the messages, the oldest first. Letters that this version cannot read are counted, but not
    among those messages.

    Args:
        open_schedule: opens the schedule of rebound's queue.
    """

    def __init__(self, open_schedule: Callable[[], AbstractContextManager[Schedule]]) -> None:
        self._open = open_schedule

    def __len__(self) -> int:
        with self._open() as schedule:
            return schedule.counts().dead

    def __iter__(self) -> Iterator[Message]:
        """The readable dead letters, the oldest first."""
        with self._open() as schedule:
            after = None
            while True:
                page = schedule.dead(after, _PAGE)
                yield from filter(None, map(_read, page.letters))
                after = page.next
                if after is None:
                    return

    def remove(self, *ids: str) -> int:
        """Remove dead letters by the ids of their messages, or of their entries; returns how many there were."""
        if not ids:
            return 0
        with self._open() as schedule:
            return schedule.remove_dead(*(entry for identity in ids for entry in _entries_of(identity)))


def _read(letter: DeadEntry) -> Message | None:
    try:
        message, _ = codec.decode(message_id_of(letter.id), letter.stored)
    except (WireFormatError, UnknownVersionError):
        return None
    # The schedule gives up messages too, whose last attempt nobody could note in the message itself.
    return message if message.reason is not None else message.dead(letter.reason)


def _entries_of(identity: str) -> Iterator[str]:
    """The ids under which the dead letter of a message may be kept: its own, or the one under which it waited last."""
    yield identity
    yield f"{identity}:dead"
    for attempt in range(1, MAX_RETRIES_LIMIT + 2):
        yield f"{identity}:{attempt}"
