"""Corrects faults of kafka-python 3.0. `patches.py` lists each piece of private code that this module changes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from functools import wraps
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import FencedInstanceIdError, KafkaConnectionError, SaslAuthenticationFailedError
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket
from kafka.net.transport import KafkaSSLTransport
from kafka.structs import OffsetAndMetadata

from .versions import warn_of_untested

#: The least time in seconds that a poll waits for Kafka's answer, even while a heartbeat is overdue.
_SHORTEST_WAIT_S = 0.05

#: How long a broker may take to answer a TLS handshake, in seconds.
HANDSHAKE_TIMEOUT_S = 8.0

#: What kafka-python puts before the reason for which a TLS handshake failed.
_HANDSHAKE_FAILED = "Handshake failed"

warn_of_untested("kafka-python")


def keep_poll_waiting(consumer: KafkaConsumer) -> None:
    """Make each poll wait some time for Kafka's answer. Call it once for a consumer.

    A poll of kafka-python waits until the next heartbeat. It does not wait at all while a heartbeat is overdue. If the
    broker hangs, the caller's loop then runs at full speed. Each poll adds a callback to the unanswered request, which
    takes about 10 MB a second. kafka-python sends heartbeats in a separate loop, so a poll that waits delays none.
    """
    coordinator = getattr(consumer, "_coordinator", None)
    time_to_next_poll = getattr(coordinator, "time_to_next_poll", None)
    if time_to_next_poll is not None:
        coordinator.time_to_next_poll = lambda: max(time_to_next_poll(), _SHORTEST_WAIT_S)  # type: ignore[union-attr]


def _end_handshakes() -> None:
    """Make kafka-python end a TLS handshake that fails, or that the broker does not answer. It may be called again.

    kafka-python forgets the socket of a handshake that fails. It stays open until Python's garbage collector finds it,
    and each try of a client that a broker refuses adds one.

    It waits for the broker's answer without a time-out, whatever its options say. A broker that hangs, or that does not
    speak TLS and waits for the rest of what it takes for a request, then holds up a client for ever.
    """
    handshake = getattr(KafkaSSLTransport, "handshake", None)
    if handshake is None or hasattr(handshake, "__wrapped__"):
        return

    @wraps(handshake)
    async def shake_or_close(transport: Any) -> None:
        is_over = False

        def end() -> None:
            nonlocal is_over
            is_over = True
            # This wakes up whoever waits for the socket.
            with contextlib.suppress(OSError):
                transport._sock.shutdown(socket.SHUT_RDWR)

        timer = transport._net.call_later(HANDSHAKE_TIMEOUT_S, end)
        try:
            await handshake(transport)
        except BaseException as error:
            transport.close()
            if not is_over or not isinstance(error, Exception):
                raise
            text = f"no answer within {HANDSHAKE_TIMEOUT_S:g} s; does this port of the broker speak TLS?"
            raise KafkaConnectionError(text) from None
        finally:
            if not is_over:
                transport._net.cancel(timer)

    KafkaSSLTransport.handshake = shake_or_close


def _close_refused_sockets() -> None:
    """Make kafka-python close the socket of a connection that fails. It may be called again.

    It forgets such a socket, which stays open until Python's garbage collector finds it. A host name with two
    addresses, of which only one listens, leaves one open at each connection.
    """
    connect = getattr(KafkaNetSocket, "sock_connect", None)
    if connect is None or hasattr(connect, "__wrapped__"):
        return

    @wraps(connect)
    async def connect_or_close(maker: Any, net: Any, sock: socket.socket, *arguments: Any, **named: Any) -> Any:
        try:
            return await connect(maker, net, sock, *arguments, **named)
        except BaseException:
            sock.close()
            raise

    KafkaNetSocket.sock_connect = connect_or_close


class WatchedClient:
    """Makes the KafkaNetClient of one KafkaConsumer, KafkaProducer or KafkaAdminClient: give it as `kafka_client`.

    When their constructors fail, they leave sockets open and a thread running. They raise only that the time is over,
    although a broker may have refused the credentials or the TLS handshake: kafka-python logs that and drops it.
    """

    def __init__(self) -> None:
        self._client: Any = None
        self._last: BaseException | None = None
        self._mechanism: str | None = None

    def __call__(self, **options: Any) -> KafkaNetClient:
        _close_refused_sockets()
        _end_handshakes()
        self._client = KafkaNetClient(**options)
        self._mechanism = options.get("sasl_mechanism")
        manager = getattr(self._client, "_manager", None)
        get_connection = getattr(manager, "get_connection", None)

        def get_and_remember(*args: Any, **named: Any) -> Any:
            connection = get_connection(*args, **named)  # type: ignore[misc]
            connection.init_future.add_errback(self._remember)
            return connection

        if get_connection is not None:
            manager.get_connection = get_and_remember  # type: ignore[union-attr]
        return self._client

    def _remember(self, error: BaseException) -> None:
        # After a refusal, later connections may end without an answer.
        if not isinstance(self._last, SaslAuthenticationFailedError):
            self._last = error

    def reason(self, error: BaseException) -> BaseException:
        """Return why the last connection failed, or `error` if none did."""
        if self._last is None:
            return error
        if self._mechanism is None or isinstance(self._last, SaslAuthenticationFailedError):
            return self._last
        if _HANDSHAKE_FAILED in str(self._last):
            # No credentials were sent yet.
            return self._last
        # A broker that closes the connection with its refusal often leaves kafka-python without the refusal.
        text = f"{self._last}; the broker may have refused the credentials of {self._mechanism}"
        return KafkaConnectionError(text)  # type: ignore[no-any-return]

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


def release_set_aside_records(consumer: KafkaConsumer) -> None:
    """Give resumed partitions the records that were fetched before their pause. Call it before each poll.

    When a partition is paused, kafka-python sets its parsed records aside. It returns to them only while it has no
    current partition. But a partition stays current after its last record was taken: `Fetcher.fetched_records` compares
    the partition with None and does not check whether it has records left. So the records that were set aside wait
    for ever. Meanwhile kafka-python does not fetch from their partition: it has a lag, and no records come.
    """
    fetcher = getattr(consumer, "_fetcher", None)
    current = getattr(fetcher, "_next_partition_records", None)
    if current is not None and not current:
        fetcher._next_partition_records = None  # type: ignore[union-attr]


def finish_joins(consumer: KafkaConsumer) -> None:
    """Let a later poll finish the group join that an earlier poll began. Call it once for a consumer.

    A poll can end before Kafka has answered the request to join. If the answer comes between two polls, kafka-python
    drops it and joins again. This can repeat for many generations.

    A second fault concerns the leader of a group that joins again because its topics have changed. The leader counts
    itself as joined as soon as it has assigned the partitions. It never takes its own partitions and sends no
    heartbeat. It does not notice that the group goes on without it.
    """
    coordinator: Any = getattr(consumer, "_coordinator", None)
    need_rejoin = getattr(coordinator, "need_rejoin", None)
    join = getattr(coordinator, "_do_join_and_sync_async", None)
    complete = getattr(coordinator, "_on_join_complete_async", None)
    if need_rejoin is None or join is None or complete is None:
        return
    #: The answer that no poll has taken yet, with its generation.
    untaken: list[tuple[Any, Any]] = []

    async def join_once() -> Any:
        if untaken:
            generation, assignment = untaken.pop()
            # After a later join this answer is out of date.
            if generation == coordinator._generation:
                return assignment
        assignment = await join()
        untaken[:] = [(coordinator._generation, assignment)]
        return assignment

    async def take(*arguments: Any) -> Any:
        untaken.clear()
        return await complete(*arguments)

    coordinator.need_rejoin = lambda: need_rejoin() or coordinator.rejoining
    coordinator._do_join_and_sync_async = join_once
    coordinator._on_join_complete_async = take


def obey_auto_create(consumer: KafkaConsumer) -> None:
    """Make the option `allow_auto_create_topics` work. Call it once for a consumer, before it subscribes.

    kafka-python takes the option, and its `KafkaConnectionManager` does not give it to `ClusterMetadata`, whose
    `metadata_request` asks Kafka for the topics. So whoever deletes a topic finds it created again by its consumers,
    with the broker's defaults for partitions, replicas and retention.
    """
    config = getattr(getattr(consumer, "_cluster", None), "config", None)
    if config is not None:
        config["allow_auto_create_topics"] = consumer.config["allow_auto_create_topics"]


def end_when_fenced(consumer: KafkaConsumer) -> None:
    """Make the next poll raise FencedInstanceIdError if a heartbeat was refused with it. Call it once for a consumer.

    Kafka refuses a member whose `group_instance_id` another member has taken. kafka-python logs this, and sends no
    heartbeat any more. Until its first commit it goes on with its partitions, and so does the other member.
    """
    coordinator: Any = getattr(consumer, "_coordinator", None)
    handle = getattr(coordinator, "_handle_heartbeat_response", None)
    if handle is None:
        return

    def handle_or_end(*arguments: Any) -> Any:
        try:
            return handle(*arguments)
        except FencedInstanceIdError:
            # Each poll calls _invoke_completed_offset_commit_callbacks, which raises the error if this is set.
            coordinator._async_commit_fenced = True
            raise

    coordinator._handle_heartbeat_response = handle_or_end


def report_gone_offsets(consumer: KafkaConsumer, report: Callable[[TopicPartition, int], object]) -> None:
    """Make a poll call `report` with a partition and its offset if Kafka does not have the offset. Call it once.

    kafka-python logs this at the level INFO. With a policy for `auto_offset_reset` it then goes on elsewhere.
    """
    subscription: Any = getattr(consumer, "_subscription", None)
    reset = getattr(subscription, "request_offset_reset", None)
    if reset is None:
        return

    def report_and_reset(partition: TopicPartition, *strategy: Any) -> Any:
        state = subscription.assignment.get(partition)
        # A strategy is given by `seek_to_beginning` and `seek_to_end` only.
        if not strategy and state is not None and state.position is not None:
            report(partition, state.position.offset)
        return reset(partition, *strategy)

    subscription.request_offset_reset = report_and_reset


def positions(consumer: KafkaConsumer) -> dict[TopicPartition, int]:
    """Return the next offset to fetch of each assigned partition. Partitions without a known position are left out.

    `consumer.position` would ask Kafka for an unknown position and wait for the answer.
    """
    found = {}
    for partition in consumer.assignment():
        state = consumer._subscription.assignment.get(partition)
        position = None if state is None else state.position
        if position is not None:
            found[partition] = position.offset
    return found


def committed_offsets(
    consumer: KafkaConsumer, partitions: list[TopicPartition], timeout_ms: int
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return the committed offsets of several partitions, with their metadata, from one request.

    `KafkaConsumer.committed` would make a request for each partition. Partitions without a committed offset are left
    out.

    Raises:
        KafkaTimeoutError: if the group's coordinator does not answer in time.
    """
    found: dict[TopicPartition, OffsetAndMetadata] = consumer._coordinator.fetch_committed_offsets(
        partitions, timeout_ms=timeout_ms
    )
    return found
