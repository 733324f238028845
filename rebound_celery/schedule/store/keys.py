"""The names of all Redis keys of the schedule; no other module spells one.

All keys of a queue share a hash tag, so that one script may touch them together on a clustered server too.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of one queue.

    Attributes:
        prefix: the app's `global_keyprefix`; the empty text for none.
        queue: the queue's name.
        steps: the app's priority steps, the most urgent first.
    """

    prefix: str
    queue: str
    steps: tuple[int, ...]

    def _key(self, name: str) -> str:
        return f"{self.prefix}rebound:{{{self.queue}}}:{name}"

    def waiting(self, step: int) -> str:
        """ZSET id -> due time in Unix milliseconds. While a worker holds the message, the time its lease ends instead,
        with a fraction: n/1024 where n counts the leases it has had. One that was moved after a loss waits with that
        fraction and a half, and is due at the next whole millisecond."""
        return self._key(f"waiting:{step}")

    def all_waiting(self) -> list[str]:
        """The waiting set of each priority step, the most urgent first."""
        return [self.waiting(step) for step in self.steps]

    @property
    def messages(self) -> str:
        """HASH id -> stored message (see `stored`)."""
        return self._key("messages")

    @property
    def dead(self) -> str:
        """HASH id -> reason, a line feed, stored message: what no worker could finish or read."""
        return self._key("dead")

    @property
    def wake(self) -> str:
        """LIST of at most one token: what is due sooner than a sleeping worker may know."""
        return self._key("wake")

    @property
    def wake_unprefixed(self) -> str:
        """`wake` as kombu's own client takes it, which adds the prefix itself."""
        return self.wake[len(self.prefix) :]
