"""Reads the dead set: the dead letters that Redis keeps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ..errors import UnknownKeyError, UnknownVersionError, WireFormatError
from ..message import Message, codec, message_id_of
from ..message.encryption import NO_KEYS, KeyRing
from ..policy import MAX_RETRIES_LIMIT
from ..schedule.port import DeadEntry, Schedule

logger = logging.getLogger(__name__)

#: How many dead letters are read in one call.
_PAGE = 100


class DeadSet:
    """The dead letters that Redis keeps, because they had no topic or URL to go to. They stay there,
    unless `rebound_dead_letter_ttl` says for how long.

    Iterate over it to get the messages, the oldest first. The iteration leaves out dead letters that this version
    cannot read, but `len()` counts them.

    Args:
        open_schedule: opens the schedule of rebound's queue.
        keys: returns the keys that encrypt stored forms.
    """

    def __init__(
        self,
        open_schedule: Callable[[], AbstractContextManager[Schedule]],
        keys: Callable[[], KeyRing] = lambda: NO_KEYS,
    ) -> None:
        self._open = open_schedule
        self._keys = keys

    def __len__(self) -> int:
        with self._open() as schedule:
            return schedule.counts().dead

    def __iter__(self) -> Iterator[Message]:
        """The readable dead letters, the oldest first."""
        with self._open() as schedule:
            after, keys = None, self._keys()
            while True:
                page = schedule.dead(after, _PAGE)
                yield from filter(None, (_read(letter, keys) for letter in page.letters))
                after = page.next
                if after is None:
                    return

    def remove(self, *ids: str) -> int:
        """Remove dead letters by the ids of their messages or of their entries. Return how many were removed."""
        if not ids:
            return 0
        with self._open() as schedule:
            return schedule.remove_dead(*(entry for identity in ids for entry in _entries_of(identity)))


def _read(letter: DeadEntry, keys: KeyRing) -> Message | None:
    try:
        message, _ = codec.decode(message_id_of(letter.id), keys.open(letter.stored))
    except UnknownKeyError as error:
        logger.warning(
            "the dead letter %s cannot be read: %s", letter.id, error, extra={"event": "unknown_key", "id": letter.id}
        )
        return None
    except (WireFormatError, UnknownVersionError):
        return None
    # The schedule also gives up messages, without writing the reason into the message.
    return message if message.reason is not None else message.dead(letter.reason)


def _entries_of(identity: str) -> Iterator[str]:
    """Return all ids that the dead letter's entry may have: that of the dead letter, or that of the last attempt."""
    yield identity
    yield f"{identity}:dead"
    for attempt in range(1, MAX_RETRIES_LIMIT + 2):
        yield f"{identity}:{attempt}"
