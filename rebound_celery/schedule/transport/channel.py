"""Kombu's Redis channel with delayed delivery: a message whose `eta` lies ahead waits in the schedule, under no worker.

What is overridden of kombu 5.7, and why:

- `_put`, `create_publish_batch`: a message with a future eta is stored in the schedule, not put on the queue's list;
- `_get`, `basic_get`, `_size`, `_purge`, `_delete`, `_has_queue`: the schedule is part of the queue;
- `basic_consume`, `_brpop_start`: the worker also waits for the schedule's wake-up token;
- `_connparams`: what Redis refuses for a while is told from what it refuses for good, and no command waits for ever;
- `close`: what this process holds is settled over whatever connection lives, and nothing stays of a lost one.

All of it acts as kombu's own unless the connection has the transport option of an installation (see `installed`).
"""

from __future__ import annotations

import logging
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.transport.redis import PublishBatch
from redis import Redis

from ...clock import SYSTEM_CLOCK
from ..options import ScheduleOptions
from ..store.claims import DONE
from ..store.keys import QueueKeys
from ..store.store import Store
from ..store.values import Entry
from . import celery_form, eta, installed, keeping, process_leases
from .claimed import FAULTS
from .claimer import Claimer
from .connecting import add_options
from .installed import Installation, installation_of
from .leases import Leases
from .publish_batch import ScheduleBatch
from .qos import LeasingQoS, PlainQoS

#: Seconds that a claim, a settle or a renewal may take; a lost network must not hold the worker's loop for longer.
_SOCKET_TIMEOUT_S = 5.0

logger = logging.getLogger(__name__)

#: Queues that hold the answers to remote control: no message there waits for its time.
_REPLIES = ".reply.celery.pidbox"


class Channel(kombu_redis.Channel):
    """A Redis channel with delayed delivery, on connections that have an installation's token as an option."""

    QoS = LeasingQoS
    from_transport_options = (*kombu_redis.Channel.from_transport_options, installed.OPTION)

    #: The token of the installation.
    rebound: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._stores: dict[str, Store] = {}
        self._claimer: Claimer | None = None
        self._clock = SYSTEM_CLOCK
        self.leases: Leases | None = None
        #: Whether it is a consumer's: after a lost connection that one comes back with another channel.
        self.has_consumed = False
        super().__init__(*args, **kwargs)
        self.installation: Installation | None = installation_of(self.rebound)
        #: What the app has chosen; None on a connection without the schedule.
        self.options: ScheduleOptions | None = None
        if self.installation is not None:
            self.options = self.installation.read_options()
        if not self.ack_emulation:
            self.QoS = PlainQoS  # kombu has put its own there

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        if self.rebound is not None:
            add_options(parameters)
        return parameters

    # publishing

    def is_leased(self, queue: str) -> bool:
        """Whether every message of this queue goes through the schedule, also one that is due at once."""
        return self.options is not None and queue in self.options.leased

    def store_of(self, queue: str) -> Store:
        """The schedule of `queue`, over this channel's connections."""
        store = self._stores.get(queue)
        if store is None:
            # Not kombu's client: with a global prefix that one prefixes only some keys of some commands.
            client = Redis(connection_pool=self.pool)
            store = self._stores[queue] = Store(client, self.keys_of(queue))
        return store

    def keys_of(self, queue: str) -> QueueKeys:
        """The schedule's keys for `queue`."""
        return QueueKeys(self.global_keyprefix, queue, tuple(self.priority_steps))

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        keeps = False
        if self.options is not None:
            message, keeps = keeping.split(message)
        entry = self._entry(queue, message)
        if entry is None:
            super()._put(queue, message, **kwargs)
            return
        batch = kwargs.get("_publish_batch")
        if batch is not None:
            batch.enqueue(queue, entry, keep=keeps)
        elif keeps:
            keeping.store_new(self.store_of(queue), entry)
        else:
            self.store_of(queue).enqueue([entry])

    def _entry(self, queue: str, message: dict[str, Any]) -> Entry | None:
        """The message as the schedule takes it, or None if it belongs on the ordinary list."""
        if self.options is None:
            return None
        due_ms, now_ms = eta.due_ms_of(message), self._clock.now_ms()
        if due_ms is None or due_ms <= now_ms:
            if not self.is_leased(queue):
                return None
            due_ms = now_ms
        headers, properties = message.get("headers") or {}, message["properties"]
        name = headers.get("id") or properties["delivery_tag"]
        priority = self._get_message_priority(message, reverse=False)
        return Entry(str(name), due_ms, celery_form.encode(message), "", priority)

    def create_publish_batch(self, max_size: int) -> PublishBatch:
        return PublishBatch(self, max_size) if self.options is None else ScheduleBatch(self, max_size)

    def adopt(self, queue: str, message: dict[str, Any]) -> bool:
        """Store a message with a future eta that came off the ordinary list; False if it is none.

        A broadcast message is none: each worker has a queue of its own for these, and Celery holds them itself.
        """
        if self.options is None or queue in self.active_fanout_queues:
            return False
        due_ms = eta.due_ms_of(message)
        if due_ms is None or due_ms <= self._clock.now_ms():
            return False
        try:
            self._put(queue, message)
        except FAULTS as error:
            # It is off the list already: Celery then holds it in memory, as it would without rebound.
            logger.warning("a message with a future eta could not be stored in the schedule: %s", error)
            return False
        return True

    # the schedule as part of the queue

    def _get(self, queue: str) -> dict[str, Any]:
        if self.claimer is not None:
            for claimed in self.claimer.claim(queue, 1):
                return claimed
        message: dict[str, Any] = super()._get(queue)
        return message

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        message = super().basic_get(queue, no_ack=no_ack, **kwargs)
        if message is not None and no_ack and self.leases is not None:
            self.leases.end(message.delivery_tag, DONE)
            self.settle_now()
        return message

    def settle_now(self) -> None:
        """Send the ends of leases, unless this is a worker's channel, whose ends are sent many at a time.

        Who acknowledges a message may end next, without closing anything.

        Raises:
            RedisError, OSError: if Redis is away.
        """
        if self.leases is not None and not self.closed and not installed.worker.owns(self):
            self.leases.flush()

    def _size(self, queue: str) -> int:
        return int(super()._size(queue)) + (0 if self.options is None else self.store_of(queue).count())

    def _purge(self, queue: str) -> int:
        return int(super()._purge(queue)) + (0 if self.options is None else self.store_of(queue).purge())

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        if self.options is not None:
            self.store_of(queue).purge()

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return super()._has_queue(queue, **kwargs) or (self.options is not None and self.store_of(queue).count() > 0)

    # claiming

    @property
    def claimed_queues(self) -> list[str]:
        """The consumed queues that can have a schedule."""
        fanout = self.active_fanout_queues
        return [queue for queue in self.active_queues if queue not in fanout and not queue.endswith(_REPLIES)]

    @property
    def claimer(self) -> Claimer | None:
        """What claims for this channel; None without the schedule, or once the channel is closing."""
        if self.installation is None or self._closing:
            return None
        if self._claimer is None:
            self._claimer = Claimer(self, self._open_leases(), self.installation)
        return self._claimer

    def _open_leases(self) -> Leases:
        assert self.options is not None
        lease_ms = round(self.options.lease_s * 1000)
        pool = self._get_pool()
        options = pool.connection_kwargs
        options["socket_timeout"] = _SOCKET_TIMEOUT_S
        place = [str(options.get(name)) for name in ("host", "port", "path", "db", "username")]
        server = (*place, str(self.connection.client.hostname), self.global_keyprefix, lease_ms)
        self.leases = process_leases.leases_of(server, lambda: self._make_leases(pool, lease_ms))
        return self.leases

    def _make_leases(self, pool: Any, lease_ms: int) -> Leases:
        pool_of_thread = self._get_pool()
        pool_of_thread.connection_kwargs["socket_timeout"] = _SOCKET_TIMEOUT_S
        return Leases(Redis(connection_pool=pool), Redis(connection_pool=pool_of_thread), lease_ms)

    # the worker's loop

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        result = super().basic_consume(queue, *args, **kwargs)
        self.has_consumed = True
        if self.options is not None and queue in self.claimed_queues:
            # kombu delivers what BRPOP brings by its key, so the token gets a callback as a queue has.
            callbacks = self.connection._callbacks  # noqa: SLF001 - of kombu
            # By its key, cut as kombu cuts off a priority's suffix.
            wake = self.keys_of(queue).wake_unprefixed.rsplit(self.sep, 1)[0]
            callbacks[wake] = lambda _token: self._wake(queue)
            if self.claimer is not None:
                self.qos.adopt_orphans()
            self.connection.cycle.arm()
        return result

    def _wake(self, queue: str) -> None:
        if self.claimer is not None:
            self.claimer.look_at(queue)
            self.connection.cycle.claim()

    def _brpop_start(self, timeout: float | None = None) -> None:
        if self.claimer is None:
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        # The tokens come first: Redis answers with the first list that has something. A worker without room leaves
        # them to others.
        claimed = set(self.claimed_queues)
        names = [
            self.keys_of(queue).wake_unprefixed for queue in queues if queue in claimed and self.claimer.has_room(queue)
        ]
        names += [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        command = ["BRPOP", *names, (self.brpop_timeout if timeout is None else timeout) or 0]
        self._in_poll = self.client.connection
        self._brpop_sent_at = self._clock.monotonic()
        if self.global_keyprefix:
            command = self.client._prefix_args(command)  # noqa: SLF001 - of kombu, which does so here
        self.client.connection.send_command(*command)

    def close(self) -> None:
        try:
            super().close()
        except FAULTS:
            logger.debug("a channel is closed whose connection is lost", exc_info=True)
            self._drop()
        if self.leases is not None:
            try:
                self.leases.flush()
            except FAULTS:
                # The thread goes on trying; should the process end first, the leases run out.
                logger.debug("leases are settled later", exc_info=True)

    def _drop(self) -> None:
        """Finish what kombu's `close` leaves undone where a connection is lost: it ends at the first thing that fails.

        Sockets would stay open then, and the process keep the channel for good, with all that it refers to.
        """
        self._disconnect_pools()
        self._close_clients()
        self.closed = False
        virtual.Channel.close(self)


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """A Redis Sentinel channel with delayed delivery."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, installed.OPTION)
