"""The thread that renews and settles the leases of a process.

It connects when it starts. Later the process may have no file descriptor left: a worker's HTTP posts may use all of
them. Leases that cannot be renewed run out, and Redis counts that as a lost worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from ...clock import SYSTEM_CLOCK, Clock
from .. import native_threads as native

#: Seconds between tries while Redis is away.
_PAUSE_S = 0.5
#: Seconds that `can_renew` waits for the first connection, and between two looks for it.
_CONNECT_S = 1.0
_LOOK_S = 0.001

_FAULTS = (RedisError, OSError)

logger = logging.getLogger(__name__)


class LeaseThread:
    """Calls `settle` when there is something to settle, and `renew` in time.

    Args:
        client: a redis-py client of its own: on gevent and eventlet a connection belongs to one thread.
        interval_s: seconds between two renewals.
        has_ends: tells whether there is something to settle.
        settle: settles it, over the client.
        renew: renews, over the client.
        gather_s: seconds between two times that something is settled, at least.
    """

    def __init__(
        self,
        client: Any,
        interval_s: float,
        *,
        has_ends: Callable[[], bool],
        settle: Callable[[Any], None],
        renew: Callable[[Any], None],
        gather_s: float,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._client = client
        self._interval_s = interval_s
        self._has_ends, self._settle, self._renew = has_ends, settle, renew
        self._gather_s = gather_s
        self._clock = clock
        self._work = native.Wake()
        self._lock = native.make_lock()
        self._has_started = False
        self._runs = native.make_lock()  # the thread holds it as long as it runs
        self._stops = False
        self._away = False
        #: Whether its connection works; None until it has tried.
        self._is_connected: bool | None = None

    def start(self) -> bool:
        """Start the thread, unless it runs; returns whether it was started now.

        Raises:
            RuntimeError: if the system gives this process no further thread.
        """
        with self._lock:
            starts, self._has_started = not self._has_started, True
        if starts:
            try:
                native.start_thread(self._run, "rebound-leases")
            except BaseException:
                self._has_started = False
                raise
        return starts

    def can_renew(self) -> bool:
        """Whether its connection works. Right after the start this waits for it."""
        until = self._clock.monotonic() + _CONNECT_S
        while self._is_connected is None and self._clock.monotonic() < until:
            self._clock.sleep(_LOOK_S)
        return bool(self._is_connected)

    def wake(self) -> None:
        """Let it settle."""
        self._work.set()

    def ask_to_end(self) -> None:
        """Let the thread end when it has done what it is at."""
        self._stops = True
        self._work.set()

    def wait_for_end(self, timeout_s: float) -> bool:
        """Whether the thread has ended, or none was started. The whole process waits, other greenlets too."""
        if has_ended := self._runs.acquire(timeout=timeout_s):
            self._runs.release()
        return bool(has_ended)

    def _run(self) -> None:
        with self._runs:
            self._renew_and_settle()

    def _renew_and_settle(self) -> None:
        renew_at = self._clock.monotonic() + self._interval_s
        flushed_at = 0.0
        # To connect.
        self._work.set()
        while not self._stops:
            self._wait_for_work(renew_at, flushed_at)
            try:
                if not self._is_connected:
                    # There may be nothing to settle or to renew, which would tell whether Redis is there.
                    self._client.ping()
                if self._has_ends():
                    self._settle(self._client)
                    flushed_at = self._clock.monotonic()
                if self._clock.monotonic() >= renew_at:
                    self._renew(self._client)
                    renew_at = self._clock.monotonic() + self._interval_s
            except _FAULTS as error:
                self._is_connected = False
                self._say_away(error)
                self._work.set()
                self._clock.sleep(_PAUSE_S)
            except Exception:
                # The thread must outlive any fault: without it every lease runs out.
                logger.exception("unexpected error while leases were settled or renewed")
                self._work.set()
                self._clock.sleep(_PAUSE_S)
            else:
                self._is_connected = True
                if self._away:
                    self._away = False
                    logger.info("Redis is back; leases are settled and renewed again")

    def _wait_for_work(self, renew_at: float, flushed_at: float) -> None:
        if self._work.wait(max(0.0, renew_at - self._clock.monotonic())):
            gather_s = flushed_at + self._gather_s - self._clock.monotonic()
            if gather_s > 0:
                self._clock.sleep(gather_s)

    def _say_away(self, error: BaseException) -> None:
        if not self._away:
            self._away = True
            logger.warning("leases cannot be settled or renewed now, and are tried again: %s", error)
