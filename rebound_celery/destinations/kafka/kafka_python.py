"""Republishing to Kafka: value, key and headers byte for byte, confirmed by all in-sync replicas."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeGuard

from kafka import KafkaProducer
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.serializer import Serializer

from ...message import Message
from ...message.address import KafkaAddress
from ...message.headers import kafka_headers
from .. import Delivered, Outcome, Rejected, Unavailable

#: Errors that say "never this record"; every other error of Kafka's says "not now". An error about all records, such
#: as a wrong password, is no reason to move them all to a dead letter topic.
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)
_PERMANENT = (
    *_TOO_LARGE,
    kafka_errors.InvalidRecordError,
    kafka_errors.InvalidTopicError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.PolicyViolationError,
)

#: The broker decides what is too large (`message.max.bytes`), not the client; this only bounds one request.
_MAX_REQUEST_BYTES = 100 * 1024 * 1024


_NULL_VALUE = object()


class _NullSafe(Serializer):
    """Lets a record without key and value through, which Kafka allows but kafka-python's `send` refuses."""

    def serialize(self, topic: str, headers: Any, data: Any) -> bytes | None:  # noqa: ARG002
        return None if data is _NULL_VALUE else data


class KafkaDestination:
    """Produces to Kafka; one producer for each set of brokers, made when first needed.

    Args:
        brokers: where topics live whose address names no brokers.
        options: further options for kafka-python's producer.
        timeout_s: seconds until an unconfirmed record counts as an outage.
    """

    def __init__(self, brokers: Sequence[str], options: Mapping[str, Any], timeout_s: float) -> None:
        self._brokers = ",".join(brokers)
        self._options = dict(options)
        self._timeout_s = timeout_s
        self._producers: dict[tuple[str, bool], KafkaProducer] = {}
        self._lock = threading.Lock()

    def send(self, messages: Sequence[Message]) -> list[Outcome]:
        outcomes = self._send(messages, compress=False)
        if "compression_type" not in self._options:
            # A producer that compresses may have written what is too large for the same topic uncompressed.
            large = [i for i, outcome in enumerate(outcomes) if _is_too_large(outcome)]
            for i, outcome in zip(large, self._send([messages[i] for i in large], compress=True), strict=True):
                outcomes[i] = outcome
        return [Rejected(outcome.error) if _is_too_large(outcome) else outcome for outcome in outcomes]

    def _send(self, messages: Sequence[Message], *, compress: bool) -> list[Outcome]:
        # First all are handed over, then all are waited for: the producer batches what is under way at once.
        sent = [self._start(message, compress=compress) for message in messages]
        return [
            result if isinstance(result, Rejected | Unavailable) else self._confirm(message, result)
            for message, result in zip(messages, sent, strict=True)
        ]

    def _start(self, message: Message, *, compress: bool) -> Any:
        address = message.target
        assert isinstance(address, KafkaAddress)
        brokers = address.brokers or self._brokers
        try:
            producer = self._producer(brokers, compress=compress)
            if address.partition is not None and address.partition not in producer.partitions_for(address.topic):
                return Rejected(f"{address} has no partition {address.partition}")
            # kafka-python cannot produce a header without a value; the empty one is the nearest.
            headers = [(name, b"" if value is None else value) for name, value in kafka_headers(message)]
            return producer.send(
                address.topic,
                value=_NULL_VALUE if message.value is None else message.value,
                key=message.key,
                headers=headers,
                partition=address.partition,
            )
        except Exception as error:  # noqa: BLE001 - classified: the message is kept or given up, never dropped
            return self._classify(error, address, brokers)

    def _confirm(self, message: Message, future: Any) -> Outcome:
        address = message.target
        assert isinstance(address, KafkaAddress)
        try:
            # kafka-python settles every future within its delivery timeout; this bound only guards against its faults.
            metadata = future.get(timeout=self._timeout_s + 10)
        except Exception as error:  # noqa: BLE001 - as in _start
            return self._classify(error, address, address.brokers or self._brokers)
        return Delivered(f"{address}[{metadata.partition}]@{metadata.offset}")

    def _classify(self, error: Exception, address: KafkaAddress, brokers: str) -> Rejected | Unavailable:
        text = f"{address} at {brokers}: {error}"
        if isinstance(error, _TOO_LARGE):
            return _RejectedAsTooLarge(text)
        return Rejected(text) if isinstance(error, _PERMANENT) else Unavailable(text)

    def _producer(self, brokers: str, *, compress: bool) -> KafkaProducer:
        with self._lock:
            producer = self._producers.get((brokers, compress))
            if producer is None:
                timeout_ms = round(self._timeout_s * 1000)
                options: dict[str, Any] = {
                    "delivery_timeout_ms": timeout_ms,
                    "request_timeout_ms": min(timeout_ms, 10_000),
                    "max_block_ms": min(timeout_ms, 10_000),
                    "bootstrap_timeout_ms": min(timeout_ms, 10_000),
                    "max_request_size": _MAX_REQUEST_BYTES,
                    "batch_size": 128 * 1024,
                    "reconnect_backoff_ms": 200,
                    **self._options,
                    # What the promise rests on is not for options to change.
                    "bootstrap_servers": brokers.split(","),
                    "acks": "all",
                    # With idempotence, one record that the broker refuses for good is fatal to kafka-python's producer:
                    # this record's error is then what every other record gets, for ever. What idempotence would give,
                    # no second copy when a confirmation is lost, is not promised.
                    "enable_idempotence": False,
                    "key_serializer": None,
                    "value_serializer": _NullSafe(),
                }
                if compress:
                    options["compression_type"] = "gzip"
                producer = self._producers[brokers, compress] = _make_producer(options)
            return producer

    def close(self) -> None:
        with self._lock:
            producers = list(self._producers.values())
            self._producers.clear()
        for producer in producers:
            # What is not confirmed by now is not settled either: it will be delivered again.
            with suppress(kafka_errors.KafkaTimeoutError):
                producer.close(timeout=5)


def _make_producer(options: Mapping[str, Any]) -> KafkaProducer:
    clients: list[KafkaNetClient] = []

    def client(**client_options: Any) -> KafkaNetClient:
        clients.append(KafkaNetClient(**client_options))
        return clients[0]

    try:
        return KafkaProducer(**options, kafka_client=client)
    except BaseException:
        # KafkaProducer leaves its sockets open when it cannot be made: an outage would pile them up.
        for one in clients:
            one.close()
        raise


class _RejectedAsTooLarge(Rejected):
    """Compressed, the record may fit."""


def _is_too_large(outcome: Outcome) -> TypeGuard[_RejectedAsTooLarge]:
    return isinstance(outcome, _RejectedAsTooLarge)
