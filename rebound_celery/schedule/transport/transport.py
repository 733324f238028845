"""Kombu's Redis transports with delayed delivery, and the poller that claims what is due."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from kombu.exceptions import OperationalError
from kombu.transport import redis as kombu_redis
from kombu.transport.redis import MultiChannelPoller
from redis import Redis
from redis.exceptions import OutOfMemoryError

from ...clock import SYSTEM_CLOCK
from ..store.script_runner import MAX_SLEEP_MS
from . import installed
from .channel import Channel, SentinelChannel
from .claimer import Claimer
from .refusals import PASSING_ERRORS, Parser

#: Seconds; the shortest that the loop's timer is set to.
_SHORTEST_S = 0.001

#: Where kombu's Transport.register_with_event_loop keeps the timers that it sets for a poller.
_KOMBUS_TIMERS = (
    "_restore_messages_tref",
    "_subclient_health_tref",
    "_brpop_health_tref",
    "_reauth_tref",
    "_binding_expiry_tref",
)

logger = logging.getLogger(__name__)


class SchedulePoller(MultiChannelPoller):
    """Claims what is due: by a timer where the worker has an event loop, else whenever it asks for events."""

    loop: Any = None
    poller: Any
    _timer: Any = None
    _timer_at = 0.0
    #: What kombu has the event loop call at each turn, for this poller.
    _ticks: frozenset[Any] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        # An event loop puts its own in this place; it has the timer.
        self.poller = _ClaimingWait(self.poller, self)
        #: What `get` is to call, where there is no event loop.
        self._calls: deque[Callable[[], None]] = deque()

    def claim(self) -> int:
        """Claim and deliver what is due; returns how many messages that was."""
        try:
            return sum(claimer.claim_due() for claimer in self._claimers())
        finally:
            # Whatever a claim met: a timer that is not set again is never set again.
            self.arm()

    def soon(self, call: Callable[[], None]) -> None:
        """Let the worker's loop call this; from any thread."""
        if self.loop is not None:
            self.loop.call_soon(call)
        else:
            self._calls.append(call)

    def next_claim_in(self) -> float:
        """Seconds until there is something to claim, at most the longest sleep."""
        return min((claimer.next_claim_in() for claimer in self._claimers()), default=MAX_SLEEP_MS / 1000)

    def _claimers(self) -> list[Claimer]:
        claimers = (channel.claimer for channel in list(self._channels) if channel.claimed_queues)
        return [claimer for claimer in claimers if claimer is not None]

    def join_loop(self, loop: Any, ticks: Iterable[Any]) -> None:
        """Claim by a timer of this event loop, which calls `ticks` at each turn."""
        self.loop, self._ticks = loop, frozenset(ticks)
        self.arm()

    def leave_loop(self) -> None:
        """Take back what the event loop calls for this poller.

        kombu leaves it there: each lost connection would cost the worker some memory for good, and time at every turn.
        """
        self.disarm()
        for name in _KOMBUS_TIMERS:
            timer = getattr(self, name, None)  # of kombu, which sets them where it needs them
            if timer is not None:
                timer.cancel()
        if self.loop is not None:
            self.loop.on_tick -= self._ticks
        self.loop, self._ticks = None, frozenset()

    def arm(self) -> None:
        """Set the event loop's timer for the next claim, where there is a loop."""
        if self.loop is None:
            return
        now = SYSTEM_CLOCK.monotonic()
        # Never at once: a loop that has run ten timers in a row sleeps for a second (kombu's fire_timers).
        wake_at = now + max(_SHORTEST_S, self.next_claim_in())
        if self._timer is not None and now < self._timer_at <= wake_at:
            return
        self.disarm()
        self._timer_at = wake_at
        self._timer = self.loop.call_later(wake_at - now, self._fire)

    def disarm(self) -> None:
        """Take the timer back: the loop, or the connection, is another one now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self.claim()

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        while self._calls:
            self._calls.popleft()()
        # Without an event loop (gevent, eventlet, plain kombu). kombu looks for a dead connection, and for messages to
        # restore, after one wait of the whole time; so the claims are made within that wait.
        if not self._claimers():
            return super().get(callback, timeout=timeout)
        if self.claim():
            return None
        if self._paused_brpop and not self.fds:
            # kombu sleeps then, and does not wait.
            wait = self.next_claim_in()
            timeout = wait if timeout is None else min(timeout, wait)
        try:
            return super().get(callback, timeout=timeout)
        except _ClaimedError:
            return None

    def maybe_restore_messages(self) -> Any:
        try:
            return super().maybe_restore_messages()
        except OutOfMemoryError as error:
            # A full Redis must not end the consumer that drains it; kombu looks again soon.
            logger.debug("unacknowledged messages are looked for later: %s", error)
            return None

    def close(self) -> None:
        self.leave_loop()
        super().close()


class _ClaimedError(Exception):
    """Ends kombu's wait: what was claimed meanwhile has been delivered."""


class _ClaimingWait:
    """What kombu waits with, for those who have no event loop: it claims whenever something is due meanwhile."""

    def __init__(self, poller: Any, cycle: SchedulePoller) -> None:
        self._poller = poller
        self._cycle = cycle
        self.register = poller.register
        self.unregister = poller.unregister
        self.close = poller.close

    def poll(self, timeout: float | None) -> Any:
        cycle, until = self._cycle, None if timeout is None else SYSTEM_CLOCK.monotonic() + timeout
        while True:
            wait = cycle.next_claim_in()
            left = wait if until is None else max(0.0, until - SYSTEM_CLOCK.monotonic())
            events = self._poller.poll(min(wait, left))
            if events or left <= wait:
                return events
            if cycle.claim():
                raise _ClaimedError
            # What a claim or another greenlet has settled makes room for ordinary messages.
            cycle.on_poll_start()


class _OfTheClass:
    """An attribute that the class has, and its instances have not."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is not None:
            raise AttributeError
        return self._value


class Transport(kombu_redis.Transport):
    """The Redis transport with delayed delivery."""

    Channel = Channel
    # What else passes by itself. A server whose role changes, or that is full, or busy, answers with what kombu takes
    # for a channel's error, and kombu wraps what meets a worker that just starts: Celery's worker would end of it.
    connection_errors = (
        *kombu_redis.Transport.connection_errors,
        OperationalError,
        *PASSING_ERRORS,
    )
    # What a publisher tries again: as with kombu's own, not what has been tried often enough. `Connection.ensure` asks
    # the class for it; an instance that has it is taken for a transport which can tell lasting errors from others.
    recoverable_connection_errors = _OfTheClass(
        (*kombu_redis.Transport.connection_errors, *kombu_redis.Transport.channel_errors)
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = SchedulePoller()

    def establish_connection(self) -> Any:
        """Connect, and in a worker that Redis has refused something see whether it takes a write now.

        A replica, or a master with too few replicas, still answers. A worker would connect, fail and connect again
        several times a second; so its connecting fails, which is tried again with growing pauses.
        """
        made = super().establish_connection()
        if Parser.has_refused and installed.worker.is_there():
            try:
                (channel,) = self._avail_channels
                # It is nobody's key; what counts is whether a write is taken.
                Redis(connection_pool=channel.pool).delete(channel.keys_of("").wake)
            except BaseException:
                self.close_connection(made)
                raise
            Parser.has_refused = False
        return made

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self.cycle.leave_loop()
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        self.cycle.join_loop(loop, loop.on_tick - before)

    def _deliver(self, message: dict[str, Any], queue: str) -> None:
        channel = next(iter(self.channels), None)
        if channel is None or queue not in self._callbacks or not channel.adopt(queue, message):
            super()._deliver(message, queue)
            if channel is not None and channel.claimer is not None and queue in channel.claimed_queues:
                channel.claimer.passed()


class SentinelTransport(Transport, kombu_redis.SentinelTransport):
    """The Redis Sentinel transport with delayed delivery."""

    Channel = SentinelChannel
