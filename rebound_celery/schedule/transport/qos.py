"""Acknowledges messages: leased ones in the schedule, all others as kombu does.

A worker of stock Celery ends when Redis restarts while the worker holds a message: kombu restores or acknowledges the
message over a channel that has no connection any more. Here, what cannot be done then is done later.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import RedisError

from ..store.claims import DONE, LOST, RELEASE
from ..store.tallies import Tally
from . import installed

#: What an ordinary acknowledgement meets when its connection is lost; the last is kombu's, on a closed channel.
_LOST = (RedisError, OSError, AttributeError)
#: The same for a command that reads no message. Where another thread or greenlet closes the connection meanwhile,
#: redis-py asks a socket that is closed, or gone.
_CLOSED = (*_LOST, ValueError)

logger = logging.getLogger(__name__)


class LeasingQoS(kombu_redis.QoS):
    """Settles leased messages, and leaves for later what cannot be acknowledged now; see the module's text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Tags of leased messages that came over this channel.
        self.leased: set[str] = set()
        #: Those whose worker was lost; see `compat.celery_request`.
        self._losses: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        leases = self.channel.leases
        if leases is not None and delivery_tag in leases:
            self.leased.add(delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if self._end(delivery_tag, DONE):
            return
        try:
            super().ack(delivery_tag)
        except _CLOSED:
            if not self._later("ack", delivery_tag):
                raise

    def count_lost_worker(self, delivery_tag: str) -> None:
        """See `schedule.port.MessageLeases`."""
        if self.channel.leases is None:
            return
        try:
            self.channel.leases.count_lost_worker(delivery_tag)
        except (RedisError, OSError) as error:
            logger.warning("a lost worker is not counted, because Redis does not answer: %s", error)

    def count_loss(self, delivery_tag: str) -> None:
        """See `schedule.port.MessageLeases`."""
        self._losses.add(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if self._end_rejected(delivery_tag, requeue):
            return
        lost = _LOST if requeue else _CLOSED
        try:
            super().reject(delivery_tag, requeue=requeue)
        except lost:
            if not self._later("restore" if requeue else "ack", delivery_tag):
                raise

    def end(self, delivery_tags: Collection[str], tally: Tally | None = None) -> set[str]:
        """See `schedule.port.MessageLeases`."""
        ended = self.leased.intersection(delivery_tags)
        if ended:
            self.leased.difference_update(ended)
            self.channel.leases.end_all(ended, DONE, tally)
        return set(delivery_tags) - ended

    def let_go(self, delivery_tags: Collection[str]) -> set[str]:
        """See `schedule.port.MessageLeases`."""
        try:
            gone: set[str] = self.channel.leases.gone(self.leased.intersection(delivery_tags))
        except (RedisError, OSError) as error:
            logger.warning("Redis does not tell whether leases go on: %s", error)
            return set()
        if not gone:
            return gone
        self.leased.difference_update(gone)
        # Not as done: what was moved once its lease had run out waits as it was.
        self.channel.leases.end_all(gone, RELEASE)
        return gone

    def in_doubt(self) -> bool:
        """See `schedule.port.MessageLeases`."""
        return self.channel.leases is not None and bool(self.channel.leases.in_doubt())

    def _end_rejected(self, delivery_tag: str, requeue: bool) -> bool:
        """Whether it was a leased message; see `_end`."""
        was_lost = delivery_tag in self._losses
        self._losses.discard(delivery_tag)
        back = LOST if was_lost else RELEASE
        return self._end(delivery_tag, back if requeue else self._refused(delivery_tag))

    def _refused(self, delivery_tag: str) -> str:
        """How the lease on a refused message ends: Celery refuses what it cannot read, or has no task for.

        An ordinary queue drops it. A leased queue keeps it as a dead letter.
        """
        queue = self.channel.leases and self.channel.leases.queue_of(delivery_tag)
        return "refused" if queue is not None and self.channel.is_leased(queue) else DONE

    def _end(self, delivery_tag: str, what: str) -> bool:
        """Whether it was a leased message. Ending a lease needs no connection, so a closed channel can do it too.

        Raises:
            RedisError, OSError: if this is no worker's channel and Redis is away. It is settled later, should this
                process still be there then.
        """
        if delivery_tag not in self.leased:
            return False
        self.leased.discard(delivery_tag)
        self.channel.leases.end(delivery_tag, what)
        self.channel.settle_now()
        return True

    def _later(self, what: str, delivery_tag: str) -> bool:
        """Leave it to the next channel that consumes, as a worker's does when it is connected again.

        False where there is none to come: who only gets hears of the error, and can do it again.
        """
        if self.channel.leases is None or not self.channel.has_consumed:
            return False
        self.channel.leases.orphans.append((what, delivery_tag))
        virtual.QoS.ack(self, delivery_tag)
        return True

    def adopt_orphans(self) -> None:
        """Do what earlier channels of this process could not."""
        orphans = self.channel.leases.orphans
        while orphans:
            what, tag = orphans[0]
            if what == "ack":
                self._remove_from_indices(tag).execute()
            else:
                self.restore_by_tag(tag)
            orphans.popleft()

    def restore_unacked_once(self, stderr: Any = None) -> None:
        leases = self.channel.leases
        if leases is None:
            super().restore_unacked_once(stderr=stderr)
            return
        to_finish = installed.worker.tasks_to_finish()
        leases.release(self.leased, keep=to_finish.__contains__)
        # A pool's threads may end some meanwhile.
        self.leased.difference_update([tag for tag in list(self.leased) if tag not in leases])
        self._on_collect.cancel()
        self._flush()
        delivered = dict(self._delivered)
        self._delivered.clear()
        self._delivered.restored = True
        for tag, message in delivered.items():
            if message.headers.get("id") in to_finish:
                # It is acknowledged when it is done, over whatever connection there is then.
                continue
            try:
                self.restore_by_tag(tag)
            except _LOST:
                leases.orphans.append(("restore", tag))
        if leases.orphans:
            logger.info("%d messages are restored once Redis is back", len(leases.orphans))


class PlainQoS(LeasingQoS):
    """The same for the transport option `ack_emulation` False: of ordinary messages nothing is kept in Redis."""

    restore_unacked = virtual.QoS.restore_unacked
    restore_visible = virtual.QoS.restore_visible

    def append(self, message: Any, delivery_tag: str) -> None:
        if delivery_tag in (self.channel.leases or ()):
            self.leased.add(delivery_tag)
        else:
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        if not self._end(delivery_tag, DONE):
            virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if not self._end_rejected(delivery_tag, requeue):
            virtual.QoS.reject(self, delivery_tag, requeue=requeue)

    def adopt_orphans(self) -> None:
        """There are none."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        if self.channel.leases is not None:
            self.channel.leases.release(self.leased, keep=installed.worker.tasks_to_finish().__contains__)
        virtual.QoS.restore_unacked_once(self, stderr=stderr)
