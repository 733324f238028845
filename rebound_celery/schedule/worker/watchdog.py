"""Notices a worker that has room and does not claim any more. It starts the claims again, or reports the worker.

A healthy worker asks Redis every `MAX_SLEEP_MS` at the latest, if only to hear that nothing is due. The watchdog has a
thread of its own, which asks Redis nothing as long as that is so.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from celery.utils.nodenames import node_format
from redis.exceptions import ConnectionError as RedisConnectionError

from ... import health
from ...clock import SYSTEM_CLOCK, Clock
from ...health import HealthFile
from ...stopping import is_stopping
from ..transport.channel import Channel
from ..transport.claimed import FAULTS
from .worker_state import has_work, tasks_to_finish

#: Seconds between two looks, each of which rewrites the health file.
LOOK_S = 3.0
#: Seconds without a claim that make a worker suspect, and that each remedy has to show its effect.
PATIENCE_S = 10.0

#: Seconds between two looks for what is to be tidied up, and how many dead letters one look removes.
TIDY_EVERY_S = 30.0
_MOST_EXPIRED = 1000

#: After these many remedies the worker is reported; the connection is then made anew at each so many-th.
_REMEDIES = 2
_RECONNECT_EACH = 6

#: Pools whose tasks do not run in the thread of the worker's loop: it stands still for no task of theirs.
_APART = frozenset({"celery.concurrency.prefork", "celery.concurrency.thread"})

Verdict = tuple[str, str]

logger = logging.getLogger(__name__)


class Watchdog:
    """Watches the claims of one Celery worker.

    Args:
        consumer: Celery's consumer. Its connection and its channel change, whenever it reconnects.
        file: told of each look's verdict.
    """

    def __init__(self, consumer: Any, file: HealthFile, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._consumer = consumer
        self._file = file
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rebound-watchdog", daemon=True)
        self._channel: Any = None
        #: Until then nothing could be held against the worker.
        self._excused_at = self._clock.monotonic()
        self._redis_away = False
        #: When it last had no room for more from a queue.
        self._full_at: dict[str, float] = {}
        #: How many remedies were tried in vain, and when the last one was.
        self._tried = 0
        self._tried_at = 0.0
        #: When it is looked again for what is to be tidied up.
        self._tidies_at = 0.0

    def start(self) -> None:
        self._file.report(health.OK)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._file.remove()

    def _run(self) -> None:
        slept_at = self._clock.monotonic()
        while not self._ended.wait(LOOK_S):
            now = self._clock.monotonic()
            if now - slept_at > 2 * LOOK_S:
                # This thread was held up too: the process was stopped, or a task held the interpreter or all greenlets.
                self._excused_at = now
            try:
                self._file.report(*self.look())
                self._tidy()
            except Exception:
                logger.exception("unexpected error while the worker was looked at")
            slept_at = self._clock.monotonic()

    def look(self) -> Verdict:
        """Look once, and do what is to be done; the state and its detail, as the health file tells them."""
        if is_stopping():
            return self._excuse(health.STOPPING)
        consumer = self._consumer
        if consumer.connection is None or consumer.task_consumer is None:
            return self._excuse(health.WAITING, "there is no connection to the broker")
        channel = consumer.task_consumer.channel
        if channel is not self._channel:
            self._channel = channel
            self._excuse(health.OK)
        silent = self._silent(channel)
        if not silent:
            return self._well(channel)
        try:
            overdue_ms = max(channel.leases.store_of(channel.keys_of(queue)).overdue_ms() for queue in silent)
        except FAULTS as error:
            self._redis_away = True
            return health.WAITING, f"Redis does not answer: {error}"
        if self._redis_away:
            # The worker may learn of it a little later.
            self._redis_away = False
            return self._excuse(health.OK)
        self._remedy(channel, silent, overdue_ms)
        return self._standing(silent)

    def _tidy(self) -> None:
        """Remove dead letters that are older than the app wants them to be, and close breakers that were left open."""
        channel, now = self._channel, self._clock.monotonic()
        if channel is None or channel.closed or channel.options is None or now < self._tidies_at or is_stopping():
            return
        options = channel.options
        self._tidies_at = now + TIDY_EVERY_S
        try:
            for queue in options.leased:
                store = channel.leases.store_of(channel.keys_of(queue))
                if options.closes_breakers:
                    for lane in store.close_unreported_breakers():
                        logger.warning(
                            "circuit breaker of %s closed, because this app has no circuit breakers any more",
                            lane,
                            extra={"event": "breaker_closed", "lane": lane},
                        )
                if options.dead_letter_ttl_s is not None:
                    self._remove_expired(queue, store, options.dead_letter_ttl_s)
        except FAULTS as error:
            logger.debug("dead letters that are too old stay, and breakers: %s", error)

    def _remove_expired(self, queue: str, store: Any, ttl_s: float) -> None:
        removed = store.expire_dead(round(ttl_s * 1000))
        if removed:
            logger.info("%d dead letters of %s are removed after %g s", removed, queue, ttl_s)
        if removed >= _MOST_EXPIRED:
            self._tidies_at = self._clock.monotonic()  # there may be more

    def _excuse(self, state: str, detail: str = "") -> Verdict:
        self._excused_at = self._clock.monotonic()
        return state, detail

    def _silent(self, channel: Any) -> list[str]:
        """The queues from which it should have claimed for a while, and has not."""
        now = self._clock.monotonic()
        if channel.closed:
            queues = [queue.name for queue in self._consumer.task_consumer.queues]
            return queues if now - self._excused_at >= PATIENCE_S else []
        claimer = channel.claimer
        queues = [] if claimer is None else list(channel.claimed_queues)
        at_work = has_work(self._consumer)
        if not queues or (at_work and type(self._consumer.pool).__module__ not in _APART):
            # It consumes nothing; or a task may be what its loop waits for.
            self._excuse(health.OK)
            return []
        silent = []
        for queue in queues:
            if at_work and not claimer.has_room(queue):
                self._full_at[queue] = now
            elif now - max(claimer.answered_at(queue), self._excused_at, self._full_at.get(queue, 0.0)) >= PATIENCE_S:
                silent.append(queue)
        return silent

    def _well(self, channel: Any) -> Verdict:
        if not self._consumer.task_consumer.queues:
            # All were cancelled on purpose: there is nothing to claim.
            self._tried = 0
        if self._tried == 0:
            return health.OK, ""
        # A channel that has only just been opened consumes nothing yet, which proves nothing.
        if channel.claimed_queues and self._claims_since(self._tried_at, channel, channel.claimed_queues):
            logger.warning("due messages are claimed again", extra={"event": "claims_back"})
            self._tried = 0
            return health.OK, ""
        return self._standing(channel.claimed_queues)

    def _claims_since(self, moment: float, channel: Any, queues: Collection[str]) -> bool:
        """Whether the worker has claimed from all of these queues since then, unless its work leaves it no room."""
        claimer = None if channel.closed else channel.claimer
        at_work = has_work(self._consumer)
        return claimer is not None and all(
            claimer.answered_at(queue) > moment or (at_work and not claimer.has_room(queue)) for queue in queues
        )

    def _standing(self, queues: Collection[str]) -> Verdict:
        state = health.STALLED if self._tried > _REMEDIES else health.OK
        return state, f"{', '.join(sorted(queues))}: nothing was claimed for a while, though there is room"

    def _remedy(self, channel: Any, silent: Collection[str], overdue_ms: int) -> None:
        where = f"{', '.join(sorted(silent))}: nothing was claimed for {PATIENCE_S * (1 + self._tried):g} s"
        where += f", and messages are {overdue_ms / 1000:.0f} s overdue" if overdue_ms else ""
        self._tried += 1
        self._tried_at = self._clock.monotonic()
        self._excuse(health.OK)
        if self._tried == 1 and not channel.closed:
            logger.warning("%s; the claims are set going again", where, extra={"event": "claims_stalled"})
            self._in_loop(partial(_rearm, channel, silent))
        elif self._tried % _RECONNECT_EACH == _REMEDIES and (overdue_ms or channel.closed):
            # Only then: a lost connection costs running tasks their early acknowledgement, and more.
            logger.error("%s; the connection is made anew", where, extra={"event": "claims_reconnect"})
            self._in_loop(partial(self._reconnect, channel, silent, self._tried_at))
        elif self._tried == _REMEDIES + 1:
            logger.critical("%s, and nothing helps: restart this worker", where, extra={"event": "claims_dead"})

    def _in_loop(self, call: Callable[[], None]) -> None:
        """Let the worker's loop do it: what belongs to its connection is touched by no other thread."""
        self._consumer.connection.transport.cycle.soon(call)

    def _reconnect(self, channel: Any, silent: Collection[str], tried_at: float) -> None:
        """Let Celery do what it does when the connection is lost."""
        if channel is not self._channel or self._claims_since(tried_at, channel, silent):
            return
        if channel.leases is not None and not has_work(self._consumer):
            # A worker without work holds nothing: these leases were forgotten, and took all the room.
            channel.leases.release(channel.leases.tags_of(silent), keep=tasks_to_finish().__contains__)
        raise RedisConnectionError("due messages are no longer claimed over this connection")


def _rearm(channel: Any, queues: Collection[str]) -> None:
    claimer = None if channel.closed else channel.claimer
    if claimer is None:
        return
    for queue in queues:
        claimer.look_at(queue)
    channel.connection.cycle.disarm()
    channel.connection.cycle.arm()


_watchdogs: dict[int, Watchdog] = {}


def watch(sender: Any = None, **_: Any) -> None:
    """Watch a worker (a receiver of `worker_ready`)."""
    channel = sender.task_consumer.channel
    if not isinstance(channel, Channel) or channel.options is None:
        return
    path = channel.options.health_file
    # As in the name of a worker's log file: %n is its name, %h the whole of it.
    file = HealthFile(None if path is None else node_format(path, sender.hostname))
    watchdog = _watchdogs[id(sender.controller)] = Watchdog(sender, file)
    watchdog.start()


def unwatch(sender: Any = None, **_: Any) -> None:
    """The worker has ended (a receiver of `worker_shutdown`)."""
    watchdog = _watchdogs.pop(id(sender), None)
    if watchdog is not None:
        watchdog.stop()
