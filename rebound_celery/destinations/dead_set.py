"""Writes to the dead set: Redis keeps the dead letters that have no topic or URL to go to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from ..message import Message, codec
from ..message.encryption import NO_KEYS, KeyRing
from ..schedule.port import DeadEntry, Schedule
from . import Delivered, Outcome, Unavailable

#: The reason of a message that has none. Only a caller other than the delivery can send such a message.
_NO_REASON = "none"


class DeadSetDestination:
    """Keeps dead letters in the app's Redis. `dead_letters.DeadSet` reads them.

    Args:
        open_schedule: opens the schedule of rebound's queue.
        keys: the keys that encrypt stored forms.
    """

    def __init__(self, open_schedule: Callable[[], AbstractContextManager[Schedule]], keys: KeyRing = NO_KEYS) -> None:
        self._open = open_schedule
        self._keys = keys

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        letters = [
            DeadEntry(message.task_id, message.reason or _NO_REASON, self._keys.seal(codec.encode(message)))
            for message in messages
        ]
        try:
            self._keep(letters)
        except Exception as error:  # noqa: BLE001 - Redis does not answer or refuses: the messages stay in the schedule
            return [Unavailable(f"the dead set in Redis: {error}") for _ in messages]
        return [Delivered(f"dead-set {message.id}") for message in messages]

    def _keep(self, letters: Sequence[DeadEntry]) -> None:
        with self._open() as schedule:
            schedule.keep_dead(letters)

    def close(self) -> None:
        """Do nothing: no connection stays open between two calls of `send`."""
