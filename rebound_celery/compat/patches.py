"""The table of everything in celery, kombu and kafka-python that rebound changes or relies on without a promise.

A minor release of these packages may change private code. So each row names the upstream code, and a test compares the
code that is installed with the code that the row was written for. `docs/patches.md` shows this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.specifiers import SpecifierSet

#: Package -> the versions that rebound was tested with.
TESTED: Mapping[str, SpecifierSet] = {
    "celery": SpecifierSet(">=5.7,<5.8"),
    "kombu": SpecifierSet(">=5.7,<5.8"),
    "kafka-python": SpecifierSet(">=3.0.12,<3.1"),
}

#: `replaced`: at run time, rebound puts its own code in this code's place, or around it.
#: `overridden`: a subclass of rebound's has a method or attribute of this name.
#: `used`: rebound calls or reads it, although it is private.
Kind = Literal["replaced", "overridden", "used"]


@dataclass(frozen=True, slots=True)
class Patch:
    """One piece of upstream code that rebound depends on.

    Attributes:
        package: the upstream package, a key of `TESTED`.
        target: the upstream code as `module:Qualified.name`.
        kind: how rebound depends on it.
        home: the module of this package that does so.
        reason: why, in one sentence.
    """

    package: str
    target: str
    kind: Kind
    home: str
    reason: str

    @property
    def versions(self) -> SpecifierSet:
        """The versions of the package that rebound was tested with."""
        return TESTED[self.package]

    @property
    def name(self) -> str:
        """The last part of the target: the name of the function, method, class or variable."""
        return self.target.replace(":", ".").rsplit(".", 1)[-1]


_KAFKA = "compat/kafka_python.py"
_RECORDS = "compat/kafka_records.py"
_PRODUCER = "compat/kafka_producer.py"
_CHANNEL = "schedule/transport/channel.py"
_QOS = "schedule/transport/qos.py"
_TRANSPORT = "schedule/transport/transport.py"
_BATCH = "schedule/transport/publish_batch.py"
_TRANSPORTS = "compat/kombu_transports.py"
_REMOTE_CONTROL = "schedule/worker/remote_control.py"
_LOST_WORKERS = "compat/celery_request.py"
_EVENTS = "compat/celery_events.py"
_POOL = "compat/celery_pool.py"


def _kafka(target: str, kind: Kind, reason: str, home: str = _KAFKA) -> Patch:
    return Patch("kafka-python", f"kafka.{target}", kind, home, reason)


def _kombu(target: str, kind: Kind, home: str, reason: str) -> Patch:
    return Patch("kombu", f"kombu.{target}", kind, home, reason)


def _celery(target: str, kind: Kind, home: str, reason: str) -> Patch:
    return Patch("celery", f"celery.{target}", kind, home, reason)


PATCHES: tuple[Patch, ...] = (
    # kafka-python
    _kafka(
        "cluster:ClusterMetadata.request_update",
        "replaced",
        "It wakes the producer's own thread, which never waits while records wait for a topic without a leader.",
        _PRODUCER,
    ),
    _kafka(
        "cluster:ClusterMetadata._future",
        "used",
        "It tells whether the request that `request_update` asks for is under way.",
        _PRODUCER,
    ),
    _kafka(
        "producer.kafka:KafkaProducer._metadata",
        "used",
        "The producer's metadata has no public name.",
        _PRODUCER,
    ),
    _kafka(
        "net.manager:KafkaConnectionManager.__init__",
        "used",
        "It leaves out `allow_auto_create_topics`, so that consumers create a deleted topic again.",
    ),
    _kafka(
        "cluster:ClusterMetadata.metadata_request",
        "used",
        "It reads `allow_auto_create_topics` from the configuration that `obey_auto_create` completes.",
    ),
    _kafka(
        "coordinator.base:BaseCoordinator._handle_heartbeat_response",
        "replaced",
        "A member whose place another one has taken goes on until its first commit.",
    ),
    _kafka(
        "coordinator.consumer:ConsumerCoordinator._invoke_completed_offset_commit_callbacks",
        "used",
        "Each poll calls it, and it raises FencedInstanceIdError if `_async_commit_fenced` is set.",
    ),
    _kafka(
        "consumer.subscription_state:SubscriptionState.request_offset_reset",
        "replaced",
        "Nobody hears that Kafka has deleted records before they were consumed.",
    ),
    _kafka(
        "coordinator.consumer:ConsumerCoordinator.time_to_next_poll",
        "replaced",
        "A poll does not wait while a heartbeat is overdue, so a consumer of a broker that hangs uses a whole core.",
    ),
    _kafka(
        "consumer.fetcher:Fetcher._next_partition_records",
        "used",
        "A partition that was used up stays in line, and records of resumed partitions then wait for ever.",
    ),
    _kafka(
        "consumer.fetcher:Fetcher.fetched_records",
        "used",
        "It tests for None where a used-up partition is meant; `release_set_aside_records` sets it before each poll.",
    ),
    _kafka(
        "consumer.group:KafkaConsumer._fetcher",
        "used",
        "The fetcher has no public name.",
    ),
    _kafka(
        "consumer.group:KafkaConsumer._coordinator",
        "used",
        "The coordinator has no public name.",
    ),
    _kafka(
        "coordinator.consumer:ConsumerCoordinator.need_rejoin",
        "replaced",
        "A member that was dealt its partitions while no poll waited takes itself for joined, and never takes them.",
    ),
    _kafka(
        "coordinator.base:BaseCoordinator._do_join_and_sync_async",
        "replaced",
        "The group's answer to a join is thrown away when it comes between two polls, and the consumer joins again.",
    ),
    _kafka(
        "coordinator.consumer:ConsumerCoordinator._on_join_complete_async",
        "replaced",
        "It marks the answer that `_do_join_and_sync_async` kept as taken.",
    ),
    _kafka(
        "coordinator.base:BaseCoordinator._generation",
        "used",
        "An answer that was kept is good only for the generation that it was given in.",
    ),
    _kafka(
        "consumer.group:KafkaConsumer._subscription",
        "used",
        "`KafkaConsumer.position` asks Kafka for a position that is not known, and waits for the answer.",
    ),
    _kafka(
        "net.manager:KafkaConnectionManager.get_connection",
        "replaced",
        "A client that cannot connect says only that the time is over, not that its credentials or TLS were refused.",
    ),
    _kafka(
        "net.compat:KafkaNetClient._manager",
        "used",
        "The manager of connections has no public name.",
    ),
    _kafka(
        "record.default_records:DefaultRecordBatch._read_msg",
        "replaced",
        "It raises for a header whose name is no UTF-8, and then the partition stands still for ever. It is slow.",
        _RECORDS,
    ),
    _kafka(
        "record.default_records:DefaultRecordBatch._buffer",
        "used",
        "`_read_msg` reads the record's bytes from it.",
        _RECORDS,
    ),
    _kafka(
        "record.default_records:DefaultRecordBatch._pos",
        "used",
        "`_read_msg` begins there, and sets it to the end of the record.",
        _RECORDS,
    ),
    _kafka(
        "record.default_records:DefaultRecordBatch._header_data",
        "used",
        "`_read_msg` needs the batch's attributes, first offset and first timestamp for each record.",
        _RECORDS,
    ),
    _kafka(
        "consumer.fetcher:Fetcher.PartitionRecords",
        "replaced",
        "A batch that cannot be read raises from every poll without saying where, and later polls never return.",
        home="compat/kafka_unreadable.py",
    ),
    _kafka(
        "net.inet:KafkaNetSocket.sock_connect",
        "replaced",
        "The socket of a connection that fails stays open.",
    ),
    _kafka(
        "net.transport:KafkaSSLTransport.handshake",
        "replaced",
        "It waits for an answer without a time-out, and the socket of a handshake that fails stays open.",
    ),
    _kafka(
        "net.selector:NetworkSelector.sleep",
        "used",
        "A coroutine of a rebalance listener has no public way to wait for some time.",
        home="consumer/rebalance.py",
    ),
    _kafka(
        "consumer.group:KafkaConsumer._net",
        "used",
        "The event loop, which has `sleep`, has no public name.",
        home="consumer/rebalance.py",
    ),
    # kombu: where connections and channels come from
    _kombu(
        "transport:TRANSPORT_ALIASES",
        "replaced",
        _TRANSPORTS,
        "The schedule's transport takes the place of kombu's own under the aliases redis, rediss and sentinel, because "
        "tools such as Flower know a broker by the scheme of its URL.",
    ),
    _kombu(
        "transport:_transport_cache",
        "used",
        _TRANSPORTS,
        "It keeps what an alias was resolved to before installation.",
    ),
    _kombu(
        "connection:Connection.ensure_connection",
        "replaced",
        "compat/kombu_reconnects.py",
        "Celery's worker pauses for up to 30 s between its tries to connect, and has no setting for that.",
    ),
    # kombu: a channel whose queues have a schedule
    _kombu("transport.redis:Channel._put", "overridden", _CHANNEL, "A message with a future eta goes to the schedule."),
    _kombu(
        "transport.redis:Channel._get", "overridden", _CHANNEL, "A due message is claimed before the list is asked."
    ),
    _kombu("transport.redis:Channel._size", "overridden", _CHANNEL, "Messages in the schedule count too."),
    _kombu("transport.redis:Channel._purge", "overridden", _CHANNEL, "Purging a queue also empties its schedule."),
    _kombu("transport.redis:Channel._delete", "overridden", _CHANNEL, "Deleting a queue also deletes its schedule."),
    _kombu("transport.redis:Channel._has_queue", "overridden", _CHANNEL, "A queue with a schedule exists."),
    _kombu(
        "transport.redis:Channel._brpop_start",
        "overridden",
        _CHANNEL,
        "BRPOP also waits for the schedule's wake token.",
    ),
    _kombu(
        "transport.redis:Channel._connparams",
        "overridden",
        _CHANNEL,
        "Redis' refusals that pass (UNBLOCKED, NOREPLICAS, MISCONF, BUSY) are to be as a lost connection; without a "
        "time-out, a command on a dead connection waits for ever.",
    ),
    _kombu(
        "transport.virtual.base:Transport._avail_channels",
        "used",
        "schedule/transport/transport.py",
        "A worker that Redis has refused something tries a write over the channel of its new connection.",
    ),
    _kombu("transport.redis:Channel._in_poll", "used", _CHANNEL, "`_brpop_start` says that BRPOP was sent."),
    _kombu("transport.redis:Channel._brpop_sent_at", "used", _CHANNEL, "`_brpop_start` says when BRPOP was sent."),
    _kombu("transport.redis:Channel._queue_cycle", "used", _CHANNEL, "It gives the order in which queues are asked."),
    _kombu("transport.redis:Channel._q_for_pri", "used", _CHANNEL, "It names the list of a queue and a priority."),
    _kombu("transport.redis:Channel._get_pool", "used", _CHANNEL, "Leases need connections with their own time-out."),
    _kombu("transport.redis:Channel._closing", "used", _CHANNEL, "A channel that closes claims nothing more."),
    _kombu(
        "transport.redis:Channel._disconnect_pools",
        "used",
        _CHANNEL,
        "`close` ends early where the connection is lost.",
    ),
    _kombu("transport.redis:Channel._close_clients", "used", _CHANNEL, "As `_disconnect_pools`."),
    _kombu(
        "transport.redis:GlobalKeyPrefixMixin._prefix_args",
        "used",
        _CHANNEL,
        "BRPOP and piggybacked commands go out by other ways than kombu's client, which adds the app's key prefix.",
    ),
    _kombu(
        "transport.virtual.base:Channel._get_message_priority",
        "used",
        _CHANNEL,
        "It maps a message's priority to a step.",
    ),
    _kombu(
        "transport.virtual.base:Transport._callbacks",
        "used",
        _CHANNEL,
        "What BRPOP brings, and what a claim brings, is delivered through the callback of its queue.",
    ),
    # kombu: transport and poller
    _kombu(
        "connection:Connection.ensure",
        "used",
        _TRANSPORT,
        "It repeats what is a connection error; for the worker OperationalError is one, for publishers it must not be.",
    ),
    _kombu(
        "transport.virtual.base:Transport._deliver",
        "overridden",
        _TRANSPORT,
        "A message with a future eta that an older publisher put on the list goes to the schedule.",
    ),
    _kombu(
        "transport.redis:Transport.register_with_event_loop",
        "overridden",
        _TRANSPORT,
        "The poller learns of its event loop, and takes its ticks and timers back when its connection is lost.",
    ),
    _kombu(
        "transport.redis:MultiChannelPoller.get",
        "overridden",
        _TRANSPORT,
        "Without an event loop, claims are made within kombu's wait.",
    ),
    _kombu(
        "transport.redis:MultiChannelPoller.maybe_restore_messages",
        "overridden",
        _TRANSPORT,
        "A full Redis must not end the consumer that empties it.",
    ),
    _kombu("transport.redis:MultiChannelPoller._channels", "used", _TRANSPORT, "The poller claims for each channel."),
    _kombu(
        "transport.redis:MultiChannelPoller._paused_brpop",
        "used",
        _TRANSPORT,
        "While BRPOP is paused kombu sleeps instead of waiting, and no claim would be made.",
    ),
    # kombu: acknowledgements
    _kombu(
        "transport.redis:QoS.ack",
        "overridden",
        _QOS,
        "A leased message is settled in the schedule; an ordinary one whose connection is lost is acknowledged later.",
    ),
    _kombu("transport.redis:QoS.reject", "overridden", _QOS, "As `ack`."),
    _kombu(
        "transport.virtual.base:QoS.restore_unacked_once",
        "overridden",
        _QOS,
        "Leases that were not begun are given back, and tasks that still run keep theirs.",
    ),
    _kombu(
        "transport.redis:QoS._remove_from_indices", "used", _QOS, "An acknowledgement is made later over a new channel."
    ),
    _kombu("transport.virtual.base:QoS._on_collect", "used", _QOS, "As `restore_unacked_once` of kombu does."),
    _kombu("transport.virtual.base:QoS._flush", "used", _QOS, "As `restore_unacked_once` of kombu does."),
    _kombu("transport.virtual.base:QoS._delivered", "used", _QOS, "It holds the messages that are not acknowledged."),
    # kombu: publishing many at once
    _kombu(
        "transport.redis:PublishBatch.flush",
        "overridden",
        _BATCH,
        "What goes to the schedule is stored with one script call for each queue and priority.",
    ),
    _kombu("transport.redis:PublishBatch._check_usable", "used", _BATCH, "As `flush` of kombu does."),
    _kombu("transport.redis:PublishBatch._failed", "used", _BATCH, "A batch that failed is not used again."),
    # celery
    _celery(
        "app.base:Celery._connection",
        "replaced",
        "compat/celery_connections.py",
        "It is the one place where an app makes its connections; the schedule adds its transport options there.",
    ),
    _celery(
        "app.utils:filter_hidden_settings",
        "replaced",
        "compat/celery_settings.py",
        "`inspect conf` and `report` would show a proxy's password, and the headers of HTTP destinations.",
    ),
    _celery(
        "worker.control:Panel.data",
        "replaced",
        "compat/celery_panel.py",
        "A worker's commands `revoke`, `scheduled` and `query_task` also reach what waits in Redis.",
    ),
    _celery("worker.control:revoke", "replaced", _REMOTE_CONTROL, "It also removes waiting tasks from the schedule."),
    _celery("worker.control:scheduled", "replaced", _REMOTE_CONTROL, "It also lists what waits in the schedule."),
    _celery("worker.control:query_task", "replaced", _REMOTE_CONTROL, "It also knows what waits in the schedule."),
    _kombu(
        "pidbox:Node.dispatch",
        "overridden",
        _REMOTE_CONTROL,
        "A command learns which question it answers, so that one of all workers shows what waits.",
    ),
    _celery(
        "app.base:Celery.__reduce_keys__",
        "used",
        "schedule/worker/installation.py",
        "Copies of an app, as in spawned processes, get the schedule and Rebound because its fixups are copied.",
    ),
    _celery(
        "app.control:Control.revoke",
        "overridden",
        _REMOTE_CONTROL,
        "Revoking removes a waiting task, whether or not a worker hears of it.",
    ),
    _celery(
        "worker.request:Request.on_failure",
        "overridden",
        _LOST_WORKERS,
        "A prefork child that dies counts as a lost worker, else a task that kills its process runs for ever.",
    ),
    _celery("worker.request:Request.reject", "overridden", _LOST_WORKERS, "It tells the channel of the lost worker."),
    _celery(
        "worker.request:Request._announce_cancelled",
        "overridden",
        _LOST_WORKERS,
        "A task that was cancelled at a lost connection must give its lease back.",
    ),
    _celery(
        "app.events:Events.dispatcher_cls",
        "replaced",
        _EVENTS,
        "It names the class of a worker's event dispatcher.",
    ),
    _celery(
        "events.dispatcher:EventDispatcher.send",
        "overridden",
        _EVENTS,
        "A heartbeat that cannot be sent is tried again for ever, in the worker's loop, which then hears of no signal.",
    ),
    _celery(
        "worker.request:Request._request_dict",
        "used",
        "schedule/transport/eta.py",
        "A task is to see its eta, which the schedule hides from Celery.",
    ),
    _celery("fixups.django:DjangoWorkerFixup.install", "used", "compat/celery_fixups.py", "As `_fixups`."),
    _celery(
        "concurrency.asynpool:AsynPool._flush_writer",
        "used",
        _POOL,
        "At a stop, a child that has got a part of a job would wait for the rest for ever.",
    ),
    _celery(
        "concurrency.asynpool:AsynPool._active_writers",
        "used",
        _POOL,
        "It tells which jobs are not wholly written to their child yet.",
    ),
    _celery(
        "concurrency.asynpool:AsynPool.flush",
        "replaced",
        _POOL,
        "It forgets the tasks that the children have got and have not been heard to begin, and the children run them.",
    ),
    _celery(
        "events.dispatcher:EventDispatcher._group_buffer",
        "used",
        "delivery/events.py",
        "Celery publishes at most two dozen events as one message; deliveries come by the hundred.",
    ),
    _celery(
        "app.amqp:AMQP._event_dispatcher",
        "used",
        "delivery/sent_events.py",
        "It is the dispatcher with which apply_async sends `task-sent`.",
    ),
    _celery(
        "utils.collections:ConfigurationView._to_keys",
        "used",
        "celery_conf.py",
        "A setting that each call reads is looked up under all of its names, without the cost of `app.conf`.",
    ),
    _celery(
        "app.base:Celery._preconf",
        "used",
        "broker.py",
        "A broker that is not Redis is refused at once, without reading the app's configuration.",
    ),
)
