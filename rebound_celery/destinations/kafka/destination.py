"""Republishes messages to Kafka: value, key and headers byte for byte, confirmed by all in-sync replicas."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ...errors import ClientNotInstalledError, InvalidSettingError
from ...message import Message
from ...message.address import KafkaAddress
from ...message.headers import kafka_headers
from .. import Outcome, Rejected, Unavailable
from .options import COMPRESSION
from .port import KafkaClient, OfBatch, Produced, ProducerRecord, TooLarge, never_free

#: How long `close` waits for each client, in seconds.
_CLOSE_S = 5.0

logger = logging.getLogger(__name__)


class _Kind(NamedTuple):
    """What the records of a client have in common.

    Attributes:
        brokers: each as `host:port`, with commas between them.
        compress: whether they are compressed.
        alone: whether each has a batch of its own.
    """

    brokers: str
    compress: bool = False
    alone: bool = False


class KafkaDestination:
    """Produces to Kafka. Each set of brokers has one client, which is made when it is first needed.

    Args:
        brokers: the brokers for addresses that name none, each as `host:port`.
        options: further options of the producer; see `options.py`.
        timeout_s: seconds until an unconfirmed record counts as an outage.
        client: the client library: "kafka-python", "confluent" or "auto". "auto" takes confluent if it is installed.
        security: returns the options for SASL and TLS of a client of these brokers.
    """

    def __init__(
        self,
        brokers: Sequence[str],
        options: Mapping[str, Any],
        timeout_s: float,
        client: str = "kafka-python",
        security: Callable[[Sequence[str]], Mapping[str, Any]] = lambda _: {},
    ) -> None:
        self._brokers = ",".join(brokers)
        self._options = dict(options)
        self._security = security
        self._timeout_s = timeout_s
        self._client_name = client
        self._clients: dict[_Kind, KafkaClient] = {}
        self._lock = threading.Lock()
        self._reported_faults: set[str] = set()
        _all_destinations.add(self)

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        outcomes = self._send(messages, compress=False)
        if not COMPRESSION & self._options.keys():
            # The record may come from a producer that compresses. Then it fits into the topic only with compression.
            large = [i for i, outcome in enumerate(outcomes) if isinstance(outcome, TooLarge)]
            for i, outcome in zip(large, self._send([messages[i] for i in large], compress=True), strict=True):
                outcomes[i] = outcome
        return [Rejected(outcome.error) if isinstance(outcome, TooLarge) else outcome for outcome in outcomes]

    def _send(self, messages: Sequence[Message], *, compress: bool) -> list[Outcome]:
        produced = self._produce(messages, compress=compress, alone=False)
        again = [i for i, outcome in enumerate(produced) if isinstance(outcome, OfBatch)]
        if again:
            # Only the records that Kafka refuses alone are to blame. A client of their own puts no record of another
            # thread beside them.
            alone = self._produce([messages[i] for i in again], compress=compress, alone=True)
            for i, outcome in zip(again, alone, strict=True):
                produced[i] = outcome
        return [outcome.outcome if isinstance(outcome, OfBatch) else outcome for outcome in produced]

    def _produce(self, messages: Sequence[Message], *, compress: bool, alone: bool) -> list[Produced]:
        by_brokers: dict[str, list[int]] = defaultdict(list)
        records = []
        for index, message in enumerate(messages):
            address = message.target
            assert isinstance(address, KafkaAddress)
            by_brokers[address.brokers or self._brokers].append(index)
            records.append(
                ProducerRecord(address.topic, address.partition, message.key, message.value, _headers(message))
            )
        outcomes: dict[int, Produced] = {}
        waits = []
        for brokers, indices in by_brokers.items():
            try:
                client = self._client(_Kind(brokers, compress, alone))
                waits.append((indices, client.start([records[index] for index in indices])))
            except (InvalidSettingError, ClientNotInstalledError) as error:
                self._report_fault(error)
                outcomes.update((index, Unavailable(str(error))) for index in indices)
            except Exception as error:  # noqa: BLE001 - no broker answers, or the client library has a fault
                outcomes.update(
                    (index, Unavailable(f"kafka:{records[index].topic} at {brokers}: {error}")) for index in indices
                )
        # All records are handed over before the first wait, so that all brokers work at the same time.
        for indices, wait in waits:
            outcomes.update(zip(indices, wait(), strict=True))
        return [outcomes[index] for index in range(len(messages))]

    def _report_fault(self, error: Exception) -> None:
        """Log once that a setting is wrong. Unlike an outage, a wrong setting does not pass with time."""
        text = str(error)
        if text not in self._reported_faults:
            self._reported_faults.add(text)
            logger.error(
                "nothing can be delivered to Kafka until this setting is corrected: %s",
                text,
                extra={"event": "invalid_setting"},
            )

    def _client(self, kind: _Kind) -> KafkaClient:
        with self._lock:
            client = self._clients.get(kind)
            if client is None:
                options = {**self._options, **self._security(kind.brokers.split(","))}
                if kind.compress:
                    options["compression_type"] = "gzip"
                client = _make_client(self._client_name, kind, options, self._timeout_s)
                self._clients[kind] = client
            return client

    def close(self) -> None:
        with self._lock:
            clients = list(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.close(_CLOSE_S)

    def _abandon_clients(self) -> None:
        """Drop the clients of the parent process without closing or freeing them."""
        for client in self._clients.values():
            # On a free, kafka-python would remove the parent's sockets from the epoll that both processes share.
            never_free(client)
        self._clients = {}
        self._lock = threading.Lock()


_all_destinations: weakref.WeakSet[KafkaDestination] = weakref.WeakSet()


def _after_fork() -> None:
    for destination in list(_all_destinations):
        destination._abandon_clients()  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_after_fork)


def _make_client(name: str, kind: _Kind, options: Mapping[str, Any], timeout_s: float) -> KafkaClient:
    installed = importlib.util.find_spec("confluent_kafka") is not None
    if name == "auto":
        name = "confluent" if installed else "kafka-python"
    logger.info("producing to %s with %s", kind.brokers, name, extra={"event": "kafka_client"})
    if name == "confluent":
        if not installed:
            raise ClientNotInstalledError("rebound_kafka_client", name, "confluent-kafka")
        from .confluent import ConfluentClient

        return ConfluentClient(kind.brokers, options, timeout_s, alone=kind.alone)
    from .kafka_python import KafkaPythonClient

    return KafkaPythonClient(kind.brokers, options, timeout_s, alone=kind.alone)


def _headers(message: Message) -> list[tuple[str, bytes | None]]:
    """Return the record's headers. A lone surrogate in a name becomes "?", because no client can encode it."""
    headers = kafka_headers(message)
    for name, _ in message.headers:
        if not name.isascii():
            return [(name.encode("utf-8", "replace").decode(), value) for name, value in headers]
    return headers
