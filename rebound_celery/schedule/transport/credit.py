"""How many due messages this process may take from a queue now.

A Celery worker takes what its pool can begin now, for what it holds beyond that another worker could begin. There are
two exceptions. Of short tasks it takes more, by the rate at which it begins them, or the pool would wait for each
claim. And for each ordinary message that it takes while due ones wait, it may take one due message ahead: an ordinary
queue that is always full leaves no place in the pool free.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ...clock import SYSTEM_CLOCK, Clock
from . import installed
from .installed import Load
from .leases import Leases

#: How many messages a worker takes at most at a time from a queue whose owner reads them.
LEASED_QUEUE_CREDIT = 1_000
#: Such a worker claims again when one in so many of them is free, as one with short tasks does: a claim costs a round
#: trip.
_FREE_PART = 4
#: How many bytes of messages a worker holds at most from such a queue, as they are stored; a single message may be
#: larger. Beyond that, a backlog of large messages would fill the memory of the worker, and kill it again and again.
LEASED_QUEUE_BYTES = 64 * 1024 * 1024
#: What is taken for the size of a message until some were claimed.
_ASSUMED_BYTES = 4 * 1024 * 1024
#: How many due messages a process without a prefetch limit takes at most at a time.
_UNLIMITED_CREDIT = 200

#: Seconds: of what the pool will begin within this time, nothing is left to other workers.
_AHEAD_S = 0.2
#: Seconds over which it is counted how many tasks begin; less where so many times the pool's size have begun.
_COUNTED_S = 0.3
_COUNTED_ROUNDS = 4


class Credit:
    """What one channel may still take.

    Args:
        channel: the channel.
        leases: this process's leases.
    """

    def __init__(self, channel: Any, leases: Leases, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._channel = channel
        self._leases = leases
        self._rate = _Rate(clock)
        #: Queue -> how many ordinary messages were taken while due ones waited for room.
        self._passed: dict[str, int] = {}
        #: Queue -> the size that the next message may have: about that of the largest one claimed lately.
        self._expected_bytes: dict[str, int] = {}

    def room(self, name: str) -> int:
        """How many due messages may be taken from a queue; from any thread."""
        channel, leases = self._channel, self._leases
        if channel.is_leased(name) and channel.options.leased[name] is not None:
            # Its owner gathers them, and gives many to the pool as one task.
            held = leases.count([name])
            free = LEASED_QUEUE_CREDIT - held
            if free < LEASED_QUEUE_CREDIT // _FREE_PART:
                return 0
            fitting = (LEASED_QUEUE_BYTES - leases.bytes_by_queue[name]) // self._expected_bytes.get(
                name, _ASSUMED_BYTES
            )
            return min(free, max(fitting, 0 if held else 1))
        if "can_consume" in vars(channel.qos):
            # worker_disable_prefetch has put its own rule there, which looks at what the worker runs now.
            return int(channel.qos.can_consume())
        held = leases.count(self._queues())
        prefetch = channel.qos.prefetch_count
        load = installed.worker.load(channel)
        if load is None:
            return max(0, (prefetch or _UNLIMITED_CREDIT) - held)
        most = max(2 * prefetch, load.size) if prefetch else max(_UNLIMITED_CREDIT, load.size)
        ahead = min(most, int(self._rate.of(load) * _AHEAD_S))
        room, passed = load.size + ahead - load.busy, self._passed.get(name, 0)
        if ahead >= load.size and not passed and room < (load.size + ahead) // _FREE_PART:
            # Tasks are short, and a place is free all the time: not each of them is worth a claim.
            return 0
        room = max(room, max(0, load.size - load.busy) + passed)
        return max(0, min(room, most - held))

    def waits(self, name: str) -> None:
        """Messages of this queue are due, and there is no room for them."""
        self._passed.setdefault(name, 0)

    def passed(self) -> None:
        """An ordinary message was taken."""
        for name in self._passed:
            self._passed[name] += 1

    def took(self, name: str, count: int, *, is_more_due: bool) -> None:
        """A claim has found so many."""
        if not is_more_due:
            self._passed.pop(name, None)
        elif name in self._passed:
            self._passed[name] = max(0, self._passed[name] - count)

    def saw(self, name: str, largest_bytes: int) -> None:
        """The largest message of a claim has this size, as it is stored."""
        # What was seen before counts less with each claim.
        self._expected_bytes[name] = max(1, largest_bytes, self._expected_bytes.get(name, _ASSUMED_BYTES) // 2)

    def _queues(self) -> Collection[str]:
        options = self._channel.options
        return [name for name in self._channel.active_queues if options.leased.get(name) is None]


class _Rate:
    """How many tasks begin in a second where others have ended: not those that fill an idle pool."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counted_at = clock.monotonic()
        self._count = 0
        self._per_second = 0.0

    def of(self, load: Load) -> float:
        """The rate of a worker that has this load now."""
        now, begun = self._clock.monotonic(), load.begun - self._count
        passed_s = now - self._counted_at
        if passed_s >= _COUNTED_S or (passed_s > 0 and begun >= _COUNTED_ROUNDS * load.size):
            self._per_second = max(0, begun - load.size) / passed_s
            self._counted_at, self._count = now, load.begun
        return self._per_second
