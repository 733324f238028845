"""The leases that this process holds. A thread renews them while work runs, and settles them when it is done.

Leases belong to the process and not to a channel: after a lost connection the channel that delivered a message is gone,
but the work on the message goes on and must still be settled. The thread has connections of its own. So it waits
neither for a task that blocks the worker's loop (the solo pool; any task that computes, on gevent) nor for a command of
the loop.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from typing import Any
from weakref import WeakValueDictionary

from ...clock import SYSTEM_CLOCK, Clock
from .. import native_threads as native
from ..store.claims import RELEASE, End
from ..store.keys import QueueKeys
from ..store.store import Store
from ..store.tallies import Tally
from ..store.values import Claimed
from .claim_ids import ClaimIds
from .lease import Lease, reference_of
from .lease_thread import LeaseThread

#: Seconds between two times that ends are sent, at least: hundreds then cost one round trip. The first goes at once.
_GATHER_S = 0.005
#: Leases are renewed this many times before they would run out.
_RENEWALS = 3

#: A lease, how it ends, and what is added to counters with that.
_End = tuple[Lease, str, Tally | None]


class Leases:
    """All leases that this process holds on one Redis server.

    Args:
        client: a redis-py client of their own, with a socket time-out.
        thread_client: another, for the thread: on gevent and eventlet a connection belongs to one thread.
        lease_ms: how long a lease lasts unless renewed, in milliseconds.
    """

    def __init__(self, client: Any, thread_client: Any, lease_ms: int, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self.client = client
        self._clock = clock
        self.claim_ids = ClaimIds()
        self.lease_ms = lease_ms
        #: What closed channels left to do about ordinary messages: ("ack" or "restore", delivery tag).
        self.orphans: deque[tuple[str, str]] = deque()
        # Weak, for the queues of replies to remote control have a new name at each connection.
        self._stores: WeakValueDictionary[QueueKeys, Store] = WeakValueDictionary()
        self._held: dict[str, Lease] = {}
        self._held_by_queue: Counter[str] = Counter()
        self.bytes_by_queue: Counter[str] = Counter()  # of the stored forms of messages that are held
        self._ends: list[_End] = []
        # Nothing that is done under it lets other greenlets go on.
        self._lock = native.make_lock()
        self._flushing = native.make_lock()
        self._numbers = count(1)
        #: Renews and settles.
        self.thread = LeaseThread(
            thread_client,
            lease_ms / 1000 / _RENEWALS,
            has_ends=lambda: bool(self._ends),
            settle=self._flush,
            renew=self._renew,
            gather_s=_GATHER_S,
            clock=clock,
        )
        self._renewed_at = clock.monotonic()
        self._are_missing = False  # whether the last renewal has found fewer leases than this process holds

    def store_of(self, keys: QueueKeys) -> Store:
        """The schedule of a queue over the leases' own connections; one, for as long as somebody has it."""
        store = self._stores.get(keys)
        if store is None:
            store = self._stores[keys] = Store(self.client, keys)
        return store

    @staticmethod
    def end_of(claimed: Claimed, token: str, what: str) -> End:
        """The end of a lease that nobody holds."""
        return End(claimed.id, token, what, reference_of(claimed))

    def start(self) -> None:
        """Start the thread, unless it runs. To be called before anything is claimed.

        Raises:
            RuntimeError: if the system gives this process no further thread.
        """
        if self.thread.start():
            self._renewed_at = self._clock.monotonic()

    def hold(self, store: Store, claims: Sequence[tuple[Claimed, str, str]]) -> list[str]:
        """Take charge of messages, each with its token and its task's id; returns the tags that end their leases."""
        if not claims:
            return []
        self.start()
        queue, prefix, numbers = store.keys.queue, f"lease-{os.getpid()}-", self._numbers
        leases = {
            f"{prefix}{next(numbers)}": Lease(store, queue, one.id, token, reference_of(one), task_id, len(one.stored))
            for one, token, task_id in claims
        }
        with self._lock:
            self._held.update(leases)
            self._held_by_queue[queue] += len(leases)
            self.bytes_by_queue[queue] += sum(lease.size_bytes for lease in leases.values())
        return list(leases)

    def __contains__(self, tag: str) -> bool:
        return tag in self._held

    def count(self, queues: Iterable[str]) -> int:
        """How many messages of these queues are held."""
        return sum(self._held_by_queue[queue] for queue in queues)

    def queue_of(self, tag: str) -> str | None:
        """The queue of a message that is held; None for another's."""
        lease = self._held.get(tag)
        return None if lease is None else lease.queue

    def tags_of(self, queues: Collection[str]) -> list[str]:
        """The tags of all leases on messages of these queues, whichever channel they came over."""
        with self._lock:
            return [tag for tag, lease in self._held.items() if lease.queue in queues]

    def end(self, tag: str, what: str) -> bool:
        """End a lease: DONE, RELEASE, LOST (its worker was), or the reason of a dead letter.

        False if this process holds no such lease.
        """
        return self.end_all((tag,), what) == 1

    def end_all(self, tags: Iterable[str], what: str, tally: Tally | None = None) -> int:
        """End leases, all in the same way; returns how many there were. `tally` is for those that are done."""
        ended = 0
        with self._lock:
            for tag in tags:
                lease = self._held.pop(tag, None)
                if lease is not None:
                    self._held_by_queue[lease.queue] -= 1
                    self.bytes_by_queue[lease.queue] -= lease.size_bytes
                    self._ends.append((lease, what, tally))
                    ended += 1
        if ended:
            self.thread.wake()
        return ended

    def release(self, tags: Iterable[str], keep: Callable[[str], bool]) -> int:
        """Give back the messages of these tags, save those whose task `keep` wants to finish; returns how many."""
        released = 0
        for tag in list(tags):
            lease = self._held.get(tag)
            if lease is not None and not keep(lease.task_id):
                released += self.end(tag, RELEASE)
        return released

    def gone(self, tags: Collection[str]) -> set[str]:
        """Those of these tags whose message Redis no longer has as it was delivered, or whose lease has run out. The
        other leases are renewed.

        Raises:
            RedisError, OSError: if Redis is away.
        """
        held = {tag: lease for tag in tags if (lease := self._held.get(tag)) is not None}
        gone = set(tags) - held.keys()
        for store in {lease.store for lease in held.values()}:
            its = {tag: [(lease.id, lease.token)] for tag, lease in held.items() if lease.store is store}
            if store.renew(list(chain.from_iterable(its.values())), self.lease_ms) < len(its):
                gone |= {tag for tag, lease in its.items() if store.renew(lease, self.lease_ms) == 0}
        return gone

    def count_lost_worker(self, tag: str) -> None:
        """Count a process of the pool that is gone, in the queue of its message; raises what redis-py raises."""
        if (lease := self._held.get(tag)) is not None:
            lease.store.send_commands([("HINCRBY", lease.store.keys.stats, "lost_workers", 1)])

    def in_doubt(self) -> bool:
        """Whether leases may have run out, by what the last renewal found, or because it was too long ago."""
        return self._are_missing or self._clock.monotonic() - self._renewed_at > self.lease_ms / 1000

    def flush(self) -> None:
        """Send the ends that are waiting. Whatever Redis does not take is kept and sent later.

        Raises:
            RedisError, OSError: if Redis is away.
        """
        self._flush(self.client)

    def _flush(self, client: Any) -> None:
        with self._one_flush_at_a_time():
            with self._lock:
                ends, self._ends = self._ends, []
            by_store: dict[Store, list[_End]] = defaultdict(list)
            for end in ends:
                by_store[end[0].store].append(end)
            stores = list(by_store)
            for position, store in enumerate(stores):
                try:
                    store.over(client).settle([lease.end(what, tally) for lease, what, tally in by_store[store]])
                except BaseException:
                    # Settling twice is harmless, so nothing needs to be known of what was done.
                    left = [end for unsent in stores[position:] for end in by_store[unsent]]
                    with self._lock:
                        self._ends = left + self._ends
                    raise

    @contextmanager
    def _one_flush_at_a_time(self) -> Iterator[None]:
        # Who closes has to wait for what another is sending; a greenlet must not wait by stopping its thread.
        while not self._flushing.acquire(blocking=False):
            self._clock.sleep(_GATHER_S)
        try:
            yield
        finally:
            self._flushing.release()

    def _renew(self, client: Any) -> None:
        """Make every lease that is held last on."""
        by_store: dict[Store, list[tuple[str, str]]] = defaultdict(list)
        began = self._clock.monotonic()
        with self._lock:
            for lease in self._held.values():
                by_store[lease.store].append((lease.id, lease.token))
        missing = 0
        for store, leases in by_store.items():
            missing += len(leases) - store.over(client).renew(leases, self.lease_ms)
        self._renewed_at, self._are_missing = began, missing > 0
