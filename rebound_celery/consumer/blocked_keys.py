"""Knows the keys whose records must wait, because an earlier record with the same key is tried again.

The truth is in Redis: a key is blocked if its chain has messages. This is a consumer's copy of it. A key that is
blocked here but not in Redis costs a round trip, and is then known to be free. The other way round would break the
order. So a key is noted here before anything is stored, and is free again only after Redis has said so.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

from ..message import Record
from .partition_tracker import Job, Partition

#: How many keys are kept in memory. Above it, every record with a key asks Redis.
MAX_KEYS = 100_000

#: A longer key, in bytes, is named by its hash.
_LONGEST_KEY = 128

#: A key of a partition. A key that is too long is the text of its hash.
Key = tuple[Partition, bytes | str]


def key_of(record: Record) -> Key:
    """Return the key of a record, with the partition where the record was first read. The record has a key."""
    key, origin = record.key or b"", record.origin
    return Partition(origin.topic, origin.partition), key if len(key) <= _LONGEST_KEY else _hashed(key)


def key_of_job(job: Job) -> Key:
    """Return the key of a record that was first read where it is now. The record has a key."""
    key = job.queue_key
    return key if key is not None and len(key[1]) <= _LONGEST_KEY else key_of(job.record)


def chain_prefix(group: str, partition: Partition) -> str:
    """Return what the names of a partition's chains begin with."""
    return f"{quote(group, safe='')}/{partition.topic}/{partition.partition}/"


def _hashed(key: bytes) -> str:
    return "#" + hashlib.sha256(key).hexdigest()


class BlockedKeys:
    """The blocked keys of a consumer. Any thread may call the methods.

    Args:
        group: the consumer group.
        names: returns names of chains that begin with a prefix, behind a name; see `KeyChains.names`.
        limit: the largest number of keys in memory.
    """

    def __init__(self, group: str, names: Callable[[str, str], list[str]], *, limit: int = MAX_KEYS) -> None:
        self._group = group
        self._prefixes: dict[Partition, str] = {}
        self._names = names
        self._limit = limit
        self._lock = threading.Lock()
        #: The blocked keys of each partition, each with the number of the `load` before it was noted.
        self._blocked: dict[Partition, dict[bytes | str, int]] = {}
        #: How many records of a key are being stored or handled by this consumer as parts of a chain.
        self._pending: dict[Key, int] = {}
        self._count = 0
        self._loads = 0
        #: How often a blocked key was not kept, because there were too many.
        self._misses = 0
        #: The partitions that were not assigned at the last `load_again`.
        self._unassigned: set[Partition] = set()
        #: Whether there are more blocked keys than `limit`. Then a key that is not here may be blocked too.
        self.is_over_limit = False

    def chain_name(self, key: Key) -> str:
        """Return the name of a key's chain: `group/topic/partition/key`, with the group and the key as in a URL."""
        partition, value = key
        prefix = self._prefixes.get(partition)
        if prefix is None:
            prefix = self._prefixes[partition] = chain_prefix(self._group, partition)
        return prefix + (value if isinstance(value, str) else quote_from_bytes(value, safe=""))

    def enter(self, key: Key) -> None:
        """Note that a record of this key goes to its chain. `leave` follows."""
        with self._lock:
            self._enter(key)

    def is_empty(self) -> bool:
        """Whether no key is blocked."""
        return not (self._pending or self._count)

    def is_free(self, key: Key) -> bool:
        """Return whether the key is not blocked.

        It takes no lock, because every record asks while any key is blocked. That is safe: the records of a key are
        handled one after the other, and a blocked key is in one of the two tables at any moment.
        """
        return not (self.is_over_limit or key in self._pending or key[1] in self._blocked.get(key[0], ()))

    def enter_if_blocked(self, key: Key) -> bool:
        """Call `enter` if the key is blocked. Return whether it is."""
        with self._lock:
            if self.is_free(key):
                return False
            self._enter(key)
            return True

    def _enter(self, key: Key) -> None:
        self._pending[key] = self._pending.get(key, 0) + 1
        self._add(key)

    def _add(self, key: Key) -> None:
        keys = self._blocked.setdefault(key[0], {})
        if key[1] not in keys:
            if self._count >= self._limit:
                self.is_over_limit = True
                self._misses += 1
                return
            self._count += 1
        keys[key[1]] = self._loads

    def leave(self, key: Key, *, is_open: bool) -> None:
        """Note that a step is done in Redis.

        Args:
            key: the key.
            is_open: whether its chain has messages.
        """
        with self._lock:
            left = self._pending[key] - 1
            if left:
                self._pending[key] = left
                return
            if is_open:
                # There may have been no room for it before.
                self._add(key)
            else:
                self._remove(key)
            del self._pending[key]

    def _remove(self, key: Key) -> None:
        if self._blocked.get(key[0], {}).pop(key[1], None) is not None:
            self._count -= 1

    def load(self, partitions: Iterable[Partition]) -> None:
        """Read the blocked keys of partitions from Redis: when they are assigned, and now and then.

        Raises:
            NotStoredError: if Redis is away.
        """
        for partition in partitions:
            with self._lock:
                self._loads += 1
                self._unassigned.discard(partition)
                began = self._loads
            found: dict[bytes | str, None] = {}
            prefix, after = chain_prefix(self._group, partition), ""
            while len(found) <= self._limit and (names := self._names(prefix, after)):
                after = names[-1]
                for name in names:
                    text = name[len(prefix) :]
                    found[text if text.startswith("#") else unquote_to_bytes(text)] = None
            with self._lock:
                for value, noted in list(self._blocked.get(partition, {}).items()):
                    # What was noted after the reading had begun may be missing in `found`.
                    if value not in found and noted < began and (partition, value) not in self._pending:
                        self._remove((partition, value))
                for value in found:
                    self._add((partition, value))

    def load_again(self, partitions: Iterable[Partition]) -> None:
        """Read all blocked keys again, of the assigned partitions. Forget the keys of partitions that others have now.

        Raises:
            NotStoredError: if Redis is away.
        """
        assigned = set(partitions)
        with self._lock:
            # A partition that is just being assigned is not among the assigned ones yet. So it is looked at twice.
            unassigned = self._blocked.keys() - assigned
            for partition in unassigned & self._unassigned:
                for value in list(self._blocked[partition]):
                    if (partition, value) not in self._pending:
                        self._remove((partition, value))
                if not self._blocked[partition]:
                    del self._blocked[partition]
            self._unassigned = unassigned
            misses = self._misses
        self.load(assigned)
        with self._lock:
            if self._misses == misses:
                self.is_over_limit = False

    def __len__(self) -> int:
        return self._count
