"""The schedule of one queue in Redis. Each change is one script: a crash can neither lose nor double a message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

from ..transport import celery_form as stored
from .keys import QueueKeys
from .script_runner import run_script

T = TypeVar("T")

#: A worker that sleeps looks again within this time. What is due later needs no wake-up call: it will be seen.
MAX_SLEEP_MS = 2_000

#: How many entries one script call may touch; longer lists are cut, so that Redis never stands still for long.
CHUNK = 500


class Claimed(NamedTuple):
    """A leased message: its id, its stored form, and how many leases of it ran out before this one."""

    id: bytes
    stored: bytes
    losses: int

    @property
    def token(self) -> bytes:
        """What names this lease when it is settled: the nonce of the storing, and the number of the lease."""
        return stored.nonce(self.stored) + b"%d" % (self.losses + 1)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim found: leased messages, ids that died of too many losses, and milliseconds until the next is due
    (None when nothing waits)."""

    messages: list[Claimed]
    dead: list[bytes]
    next_due_in_ms: int | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """An entry of the schedule as a listing shows it; `due_ms` is the end of the lease where it is leased."""

    id: str
    due_ms: int
    leased: bool
    message: dict[str, Any] | None


class Store:
    """The schedule of one queue.

    Args:
        client: a redis-py client that adds no prefix and decodes nothing.
        keys: the queue's keys.
    """

    def __init__(self, client: Any, keys: QueueKeys) -> None:
        self.keys = keys
        self._client = client
        self._common = [keys.messages, keys.wake, keys.dead, *keys.all_waiting()]
        self._of_step = {
            step: [
                keys.messages,
                keys.wake,
                keys.waiting(step),
                *(keys.waiting(other) for other in keys.steps if other != step),
            ]
            for step in keys.steps
        }

    def over(self, client: Any) -> Store:
        """The same schedule over another client."""
        other = copy(self)
        other._client = client  # noqa: SLF001 - of its own class
        return other

    def enqueue(
        self,
        entries: Iterable[tuple[str, int, bytes]],
        step: int,
        *,
        keep: bool = False,
        piggybacked: Sequence[Sequence[Any]] = (),
    ) -> int:
        """Store messages: (id, due time in Unix milliseconds, stored form). Returns how many ids were new.

        Entries that are made one by one are made while Redis is at work on those before. An id that is stored already
        gets the new message and due time; with `keep` it stays as it is. The commands in
        `piggybacked` are sent in the same round trip, after the script; their answers are ignored.
        """
        calls = ([MAX_SLEEP_MS, int(keep), *chain.from_iterable(chunk)] for chunk in _chunks(entries))
        return sum(self._run("enqueue", self._of_step[step], calls, piggybacked))

    def claim(self, limit: int, lease_ms: int, max_losses: int) -> Claim:
        """Lease at most `limit` messages that are due, the most urgent and oldest first."""
        (reply,) = self._run("claim", self._common, [[lease_ms, min(limit, CHUNK), max_losses]])
        next_due, dead, *rest = reply
        messages = [Claimed(rest[i], rest[i + 1], rest[i + 2]) for i in range(0, len(rest), 3)]
        return Claim(messages, dead, None if next_due < 0 else next_due)

    def settle(self, ends: Sequence[tuple[bytes, bytes, str]]) -> int:
        """End leases: (id, token, what), where what is "done", "release" (as if the lease had not been), "lost" (as
        if it had run out), or the reason of a dead letter."""
        return sum(self._run("settle", self._common, [list(chain.from_iterable(chunk)) for chunk in _chunks(ends)]))

    def renew(self, leases: Sequence[tuple[bytes, bytes]], lease_ms: int) -> int:
        """Make leases, each (id, nonce), last `lease_ms` from now. Returns how many go on."""
        keys = [self.keys.messages, *self.keys.all_waiting()]
        return sum(self._run("renew", keys, [[lease_ms, *chain.from_iterable(chunk)] for chunk in _chunks(leases)]))

    def cancel(self, *ids: str | bytes) -> int:
        """Remove messages, waiting or leased; returns how many there were."""
        return self._move("remove", ids)

    def withdraw(self, *ids: str | bytes) -> Iterator[bytes]:
        """Remove messages that no worker holds; gives the stored form of each."""
        keys = [self.keys.messages, *self.keys.all_waiting()]
        for chunk in _chunks(ids):
            yield from self._run("withdraw", keys, [chunk])[0]

    def run_now(self, *ids: str | bytes) -> int:
        """Make waiting messages due; returns how many."""
        return self._move("now", ids)

    def reschedule(self, due_ms: int, *ids: str | bytes) -> int:
        """Make waiting messages due at `due_ms` (Unix milliseconds); returns how many."""
        return self._move(due_ms, ids)

    def _move(self, due: int | str, ids: Sequence[str | bytes]) -> int:
        keys = [self.keys.messages, self.keys.wake, *self.keys.all_waiting()]
        return sum(self._run("move", keys, [[due, *chunk] for chunk in _chunks(ids)]))

    def show(self, identity: str) -> Waiting | None:
        """One entry by its id, or None."""
        return next(self._entries([identity.encode()]), None)

    def list(self, start: int = 0, count: int = 100) -> list[Waiting]:
        """A page of the entries, ordered by priority step and then by time."""
        ids: list[bytes] = []
        for key in self.keys.all_waiting():
            if len(ids) >= count:
                break
            size = self._client.zcard(key)
            if start < size:
                ids += self._client.zrange(key, start, start + count - len(ids) - 1)
            start = max(0, start - size)
        return list(self._entries(ids))

    def _entries(self, ids: Sequence[bytes]) -> Iterator[Waiting]:
        steps = self.keys.all_waiting()
        for chunk in _chunks(ids):
            with self._client.pipeline(transaction=False) as pipe:
                for identity in chunk:
                    pipe.hget(self.keys.messages, identity)
                    for key in steps:
                        pipe.zscore(key, identity)
                pipe.time()
                *found, (seconds, microseconds) = pipe.execute()
            replies, now_ms = iter(found), seconds * 1000 + microseconds // 1000
            for identity in chunk:
                raw, *scores = [next(replies) for _ in range(1 + len(steps))]
                score = next((s for s in scores if s is not None), None)
                if raw is not None and score is not None:
                    yield _waiting(identity, raw, score, now_ms)

    def count(self) -> int:
        """How many messages wait or are leased."""
        return int(self._client.hlen(self.keys.messages))

    def overdue_ms(self) -> int:
        """For how long the message that is due first has been due and in no worker's hands; 0 if none is due."""
        with self._client.pipeline(transaction=False) as pipe:
            for key in self.keys.all_waiting():
                pipe.zrange(key, 0, 0, withscores=True)
            pipe.time()
            *heads, (seconds, microseconds) = pipe.execute()
        now_ms = seconds * 1000 + microseconds // 1000
        return max((now_ms - int(score) for head in heads for _, score in head if score <= now_ms), default=0)

    def purge(self) -> int:
        """Remove every waiting message; returns how many. Dead letters stay."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.hlen(self.keys.messages)
            pipe.delete(self.keys.messages, self.keys.wake, *self.keys.all_waiting())
            return int(pipe.execute()[0])

    def server_info(self) -> dict[str, Any]:
        """What the server tells of itself (INFO)."""
        return dict(self._client.info())

    def dead(self) -> Iterator[tuple[str, str, bytes]]:
        """Dead letters of this queue: id, reason, stored form."""
        for identity, letter in self._client.hscan_iter(self.keys.dead):
            reason, _, body = letter.partition(b"\n")
            yield identity.decode("utf-8", "replace"), reason.decode("utf-8", "replace"), body

    def dead_letter(self, identity: bytes) -> bytes | None:
        """The stored form of a dead letter, or None."""
        letter = self._client.hget(self.keys.dead, identity)
        return None if letter is None else letter.partition(b"\n")[2]

    def _run(
        self, name: str, keys: Sequence[str], calls: Iterable[Sequence[Any]], piggybacked: Sequence[Sequence[Any]] = ()
    ) -> Sequence[Any]:
        return run_script(self._client, name, keys, calls, piggybacked)


def _waiting(identity: bytes, raw: bytes, score: float, now_ms: int) -> Waiting:
    try:
        message = stored.decode(raw)
    except (stored.UnknownVersionError, ValueError):
        message = None
    # See `waiting` in keys.py.
    was_moved = score % 1 >= 0.5
    due_ms = int(score) + was_moved
    leased = score % 1 > 0 and not was_moved and score > now_ms
    return Waiting(identity.decode("utf-8", "replace"), due_ms, leased, message)


def _chunks(items: Iterable[T]) -> Iterator[Sequence[T]]:
    rest = iter(items)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk
