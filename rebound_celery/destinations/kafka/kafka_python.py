"""Producing with kafka-python, the default client."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors
from kafka.net.compat import KafkaNetClient
from kafka.serializer import Serializer

from ...errors import InvalidSettingError
from .. import Rejected, Unavailable
from .options import MAX_REQUEST_BYTES, check_options
from .port import Produced, ProducerRecord, TooLarge, Wait, where

_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)

#: Errors that mean "never this record"; every other error means "not now". An error that concerns all records, such as
#: a wrong password, is no reason to move them all to a dead letter topic.
_PERMANENT = (
    kafka_errors.InvalidRecordError,
    kafka_errors.InvalidTopicError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.PolicyViolationError,
)

#: Errors of KafkaProducer's constructor that come from its arguments, not from the brokers.
_WRONG_OPTION = (kafka_errors.KafkaConfigurationError, TypeError, ValueError, AssertionError)

#: Seconds that the wait for a confirmation may exceed the delivery timeout, within which kafka-python settles every
#: future. This only guards against its faults.
_PATIENCE_S = 10.0

_NULL_VALUE = object()


class _NullSafe(Serializer):
    """Lets a record without key and value through, which Kafka allows but kafka-python's `send` refuses."""

    def serialize(self, topic: str, headers: Any, data: Any) -> bytes | None:  # noqa: ARG002
        return None if data is _NULL_VALUE else data


class KafkaPythonClient:
    """One KafkaProducer. See `KafkaClient`.

    Raises:
        InvalidSettingError: for an option that kafka-python does not know, or a value that it cannot use.
        kafka.errors.KafkaError: if no broker answers: the producer connects at once.
    """

    def __init__(self, brokers: str, options: Mapping[str, Any], timeout_s: float) -> None:
        check_options("kafka-python", options)
        _quiet_logging()
        self._brokers = brokers
        self._timeout_s = timeout_s
        timeout_ms = round(timeout_s * 1000)
        self._producer = _make_producer(
            {
                "delivery_timeout_ms": timeout_ms,
                "request_timeout_ms": min(timeout_ms, 10_000),
                "max_block_ms": min(timeout_ms, 10_000),
                "bootstrap_timeout_ms": min(timeout_ms, 10_000),
                "max_request_size": MAX_REQUEST_BYTES,
                "batch_size": 128 * 1024,
                "reconnect_backoff_ms": 200,
                **options,
                # What the promise rests on. `check_options` refuses other values.
                "bootstrap_servers": brokers.split(","),
                "acks": "all",
                # With idempotence, one record that the broker refuses for good is fatal to kafka-python's producer:
                # every later record gets this record's error. What idempotence would give, no second copy when a
                # confirmation is lost, is not promised.
                "enable_idempotence": False,
                "key_serializer": None,
                "value_serializer": _NullSafe(),
            }
        )

    def start(self, records: Sequence[ProducerRecord]) -> Wait:
        # kafka-python waits for a topic that it does not know, some seconds. One wait is enough for all its records.
        unknown_topics: dict[str, Unavailable] = {}
        sent = [unknown_topics.get(record.topic) or self._start(record, unknown_topics) for record in records]
        return lambda: [self._confirm(record, result) for record, result in zip(records, sent, strict=True)]

    def _start(self, record: ProducerRecord, unknown_topics: dict[str, Unavailable]) -> Any:
        """kafka-python's future for the record, or an outcome."""
        topic, partition, key, value, headers = record
        try:
            if partition is not None and partition not in self._producer.partitions_for(topic):
                return Rejected(f"kafka:{topic} has no partition {partition}")
            return self._producer.send(
                topic,
                value=_NULL_VALUE if value is None else value,
                key=key,
                # kafka-python cannot produce a header without a value; the empty value is the nearest.
                headers=[(name, b"" if data is None else data) for name, data in headers],
                partition=partition,
            )
        except kafka_errors.KafkaTimeoutError as error:
            unknown_topics[topic] = outcome = Unavailable(f"kafka:{topic} at {self._brokers}: {error}")
            return outcome
        except Exception as error:  # noqa: BLE001 - classified: the message is kept or given up, never dropped
            return self._classify(topic, error)

    def _confirm(self, record: ProducerRecord, sent: Any) -> Produced:
        if isinstance(sent, Rejected | Unavailable):
            return sent
        try:
            # `get` costs more than all else that is done here, and after the first one most are confirmed.
            is_confirmed = sent.is_done and sent.exception is None
            metadata = sent.value if is_confirmed else sent.get(timeout=self._timeout_s + _PATIENCE_S)
        except Exception as error:  # noqa: BLE001 - as in _start
            return self._classify(record.topic, error)
        return where(record.topic, metadata.partition, metadata.offset)

    def _classify(self, topic: str, error: Exception) -> Rejected | Unavailable:
        text = f"kafka:{topic} at {self._brokers}: {error}"
        if isinstance(error, _TOO_LARGE):
            return TooLarge(text)
        return Rejected(text) if isinstance(error, _PERMANENT) else Unavailable(text)

    def close(self, timeout_s: float) -> None:
        try:
            # It waits up to this long twice: for what is under way, and for its thread.
            self._producer.close(timeout=timeout_s / 2)
        except Exception:
            # Kafka hangs, say. What is not confirmed is delivered again.
            logging.getLogger(__name__).debug("closing a producer failed", exc_info=True)


def _make_producer(options: Mapping[str, Any]) -> KafkaProducer:
    clients: list[KafkaNetClient] = []

    def client(**client_options: Any) -> KafkaNetClient:
        clients.append(KafkaNetClient(**client_options))
        return clients[0]

    try:
        return KafkaProducer(**options, kafka_client=client)
    except BaseException as error:
        # KafkaProducer leaves its sockets open when it cannot be made: an outage would pile them up.
        for one in clients:
            one.close()
        if isinstance(error, _WRONG_OPTION) and not isinstance(error, kafka_errors.BrokerResponseError):
            # Not the options themselves: there may be a password among them.
            raise InvalidSettingError("rebound_kafka_options", sorted(options), f"kafka-python: {error}") from error
        raise


def _quiet_logging() -> None:
    """Turn off kafka-python's log, unless its level was set.

    It logs each step of each connection, and each failed one at ERROR: hundreds a second while Kafka is away. What
    matters of that is in rebound's own log lines.
    """
    log = logging.getLogger("kafka")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)
