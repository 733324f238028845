"""The names of all Redis keys of the schedule; no other module spells one.

All keys of a queue share a hash tag, so that one script may touch them together.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

#: The highest priority that kombu gives a message.
_LAST_PRIORITY = 9


@dataclass(frozen=True)
class QueueKeys:
    """The keys of one queue.

    A *lane reference* is the digit of a rank, and the name of a lane.

    Attributes:
        prefix: the app's `global_keyprefix`; the empty text for none.
        queue: the queue's name.
        steps: the app's priority steps, the most urgent first. Each is the rank of the messages at this step.
    """

    prefix: str
    queue: str
    steps: tuple[int, ...]

    def _key(self, name: str) -> str:
        return f"{self.prefix}rebound:1:{{{self.queue}}}:{name}"

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """The steps that a message can have."""
        return tuple(step for step in self.steps if 0 <= step <= _LAST_PRIORITY)

    def rank_of(self, priority: int) -> int:
        """The rank of a message with this priority, as kombu chooses the list of an ordinary one."""
        return self.steps[bisect(self.steps, min(max(priority, 0), _LAST_PRIORITY)) - 1]

    def waiting(self, reference: str) -> str:
        """ZSET id -> due time in Unix milliseconds, of a rank and lane."""
        return self._key(f"waiting:{reference[0]}:{reference[1:]}")

    def lanes(self, rank: int | str) -> str:
        """ZSET lane -> when to look at it, in Unix milliseconds: no later than its first message is due, or, where it
        is paused or limited, no earlier than it may be claimed from. A lane that was served and still has due messages
        has the time of that, so that lanes take turns."""
        return self._key(f"lanes:{rank}")

    def of_lanes(self, references: Iterable[str]) -> Iterator[str]:
        """For each lane reference its waiting key, and the lanes of its rank, as the scripts take them."""
        for reference in references:
            yield self.waiting(reference)
            yield self.lanes(reference[0])

    @property
    def messages(self) -> str:
        """HASH id -> envelope and stored form; the envelope tells losses, rank and lane."""
        return self._key("messages")

    @property
    def leased(self) -> str:
        """ZSET id -> end of its lease in Unix milliseconds."""
        return self._key("leased")

    @property
    def leases(self) -> str:
        """HASH id -> token of its lease: a worker's name, a colon, and the number of its claim. With a minus before it,
        the lease has run out, and the message waits."""
        return self._key("leases")

    @property
    def claims(self) -> str:
        """HASH worker -> its last claim: number, 0 until the worker has confirmed it, then 1, or 2 once the worker is
        counted as lost, and the claimed ids."""
        return self._key("claims")

    @property
    def unconfirmed(self) -> str:
        """ZSET worker -> until when its last claim must be confirmed; or, confirmed, until when it is remembered."""
        return self._key("unconfirmed")

    @property
    def limits(self) -> str:
        """HASH lane -> until when it is paused, messages a second (0: no limit), and when all claimed so far are paid
        for at that rate; times in Unix milliseconds."""
        return self._key("limits")

    @property
    def breakers(self) -> str:
        """HASH lane -> its circuit breaker, unless it is closed: its state (open, probing, draining) and times, and the
        pause and rate that were set from outside, in msgpack."""
        return self._key("breakers")

    def outcomes(self, lane: str) -> str:
        """STRING for two windows of a circuit breaker: when this half of the window began, how many deliveries of the
        half before were answered and failed, and the same of this half."""
        return self._key(f"outcomes:{lane}")

    @property
    def configured(self) -> str:
        """HASH lane -> the rate that the app's settings gave it last."""
        return self._key("configured")

    @property
    def unique(self) -> str:
        """HASH unique key -> when a message with it was first stored, in Unix milliseconds, and the message's id."""
        return self._key("unique")

    @property
    def unique_times(self) -> str:
        """ZSET unique key -> when to look whether its message still waits, in Unix milliseconds."""
        return self._key("unique:times")

    @property
    def next(self) -> str:
        """STRING: no claim finds anything before this time, in Unix milliseconds. Missing: nothing waits."""
        return self._key("next")

    @property
    def wake(self) -> str:
        """LIST of at most one token: something is due sooner than a sleeping worker may know."""
        return self._key("wake")

    @property
    def wake_unprefixed(self) -> str:
        """`wake` as kombu's own client takes it, which adds the prefix itself."""
        return self.wake[len(self.prefix) :]

    @property
    def stats(self) -> str:
        """HASH counter -> its value; each is changed in the same step as what it counts."""
        return self._key("stats")

    @property
    def health(self) -> str:
        """HASH endpoint -> since when it fails, its last failure, how many, and whether it is disabled."""
        return self._key("health")

    def answer(self, question: str) -> str:
        """STRING for a minute: one of the workers that were asked this has answered for the queue."""
        return self._key(f"answer:{question}")

    @property
    def claimed(self) -> str:
        """STRING: when a worker last claimed, or had no room for more, in Unix milliseconds."""
        return self._key("claimed")

    @property
    def dead(self) -> str:
        """HASH id -> reason, a line feed, stored form."""
        return self._key("dead")

    @property
    def dead_times(self) -> str:
        """ZSET id -> when it died, in Unix milliseconds."""
        return self._key("dead:times")

    def revived(self, block: str) -> str:
        """STRING: bit by bit, of dead letters that are kept elsewhere, which numbers were replayed. A block is the name
        of a series, and which 65,536 numbers of it these are."""
        return self._key(f"revived:{block}")

    @property
    def jobs(self) -> str:
        """ZSET job -> when it was started, in Unix milliseconds."""
        return self._key("jobs")

    def job(self, identity: str) -> str:
        """HASH of one job: what it is to do, its state and its progress. It expires some time after the job's end."""
        return self._key(f"job:{identity}")

    @property
    def chained(self) -> str:
        """ZSET of the members of all chains, each with the score 0: name of the chain, slash, place."""
        return self._key("chained")

    @property
    def chained_entries(self) -> str:
        """HASH member of a chain -> its state, and the message of one that is behind the head."""
        return self._key("chained:entries")

    @property
    def chained_heads(self) -> str:
        """HASH id -> member, for each member of a chain that is not behind the head."""
        return self._key("chained:heads")

    @property
    def of_chains(self) -> tuple[str, str, str]:
        """The keys of chains, as the scripts take them."""
        return self.chained, self.chained_entries, self.chained_heads
