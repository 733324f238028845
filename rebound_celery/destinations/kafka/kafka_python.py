"""Produces with kafka-python, the default client."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka import errors as kafka_errors
from kafka.serializer import Serializer

from ...compat.kafka_producer import ask_for_metadata_once, read_metadata
from ...compat.kafka_python import WatchedClient
from ...errors import InvalidSettingError
from .. import Rejected, Unavailable
from .options import MAX_REQUEST_BYTES, check_options
from .port import LOOK_S, OfBatch, Produced, ProducerRecord, TooLarge, Wait, where

_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)

#: Errors after which this record can never be produced. After every other error the record waits: an error that
#: concerns all records, for example a wrong password, must not move all of them to a dead letter topic.
_PERMANENT = (
    kafka_errors.InvalidRecordError,
    kafka_errors.InvalidTopicError,
    kafka_errors.TopicAuthorizationFailedError,
    kafka_errors.PolicyViolationError,
)

#: Errors that Kafka gives for all records of a batch because of one of them. A batch that is too large is not among
#: them, because kafka-python itself divides it.
_OF_BATCH = (
    kafka_errors.InvalidRecordError,
    kafka_errors.CorruptRecordError,
    kafka_errors.InvalidTimestampError,
    kafka_errors.UnsupportedForMessageFormatError,
)

#: Errors of KafkaProducer's constructor that its arguments cause, and not the brokers.
_WRONG_OPTION = (kafka_errors.KafkaConfigurationError, TypeError, ValueError, AssertionError)

#: How much longer than the delivery timeout a confirmation is waited for, in seconds. kafka-python completes every
#: future within the delivery timeout; this guards against its faults.
_PATIENCE_S = 10.0

_NULL_VALUE = object()


class _NullSafe(Serializer):
    """Serializes a record without key and value. Kafka allows such a record, but kafka-python's `send` refuses it."""

    def serialize(self, topic: str, headers: Any, data: Any) -> bytes | None:  # noqa: ARG002
        return None if data is _NULL_VALUE else data


class KafkaPythonClient:
    """One KafkaProducer. See `KafkaClient`.

    The constructor connects.

    Args:
        brokers: each as `host:port`, with commas between them.
        options: see `options.py`.
        timeout_s: seconds until an unconfirmed record counts as an outage.
        alone: whether each record has a batch of its own.

    Raises:
        InvalidSettingError: if kafka-python does not have an option, or cannot use its value.
        kafka.errors.KafkaError: if no broker answers.
    """

    def __init__(self, brokers: str, options: Mapping[str, Any], timeout_s: float, *, alone: bool = False) -> None:
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
                "reconnect_backoff_max_ms": 2_000,
                **options,
                # No message may be lost, so these are fixed. `check_options` refuses other values.
                "bootstrap_servers": brokers.split(","),
                "acks": "all",
                # With idempotence, a record that the broker refuses for good ends kafka-python's producer: every later
                # record gets the same error. Idempotence would prevent a second copy when a confirmation is lost.
                # rebound does not promise that, because it delivers at least once.
                "enable_idempotence": False,
                "key_serializer": None,
                "value_serializer": _NullSafe(),
                **({"batch_size": 0} if alone else {}),
            }
        )
        ask_for_metadata_once(self._producer)

    def start(self, records: Sequence[ProducerRecord]) -> Wait:
        # kafka-python waits some seconds for an unknown topic. One wait is enough for all records of the topic.
        unknown_topics: dict[str, Unavailable] = {}
        read_again: set[str] = set()
        sent = [
            unknown_topics.get(record.topic) or self._start(record, unknown_topics, read_again) for record in records
        ]
        return lambda: [self._confirm(record, result) for record, result in zip(records, sent, strict=True)]

    def _start(self, record: ProducerRecord, unknown_topics: dict[str, Unavailable], read_again: set[str]) -> Any:
        """Return kafka-python's future for the record, or an outcome."""
        topic, partition, key, value, headers = record
        try:
            if partition is not None and partition not in self._producer.partitions_for(topic):
                # It may have been added since kafka-python has last looked.
                if topic not in read_again and not read_metadata(self._producer, min(self._timeout_s, LOOK_S)):
                    text = f"kafka:{topic} at {self._brokers}: Kafka does not say whether it has partition {partition}"
                    unknown_topics[topic] = outcome = Unavailable(text)
                    return outcome
                read_again.add(topic)
            if partition is not None and partition not in self._producer.partitions_for(topic):
                return Rejected(f"kafka:{topic} has no partition {partition}")
            return self._producer.send(
                topic,
                value=_NULL_VALUE if value is None else value,
                key=key,
                # kafka-python cannot produce a header without a value. It gets the empty value.
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
            # `get` is the most expensive call here. After the first `get`, most records are confirmed already.
            is_confirmed = sent.is_done and sent.exception is None
            metadata = sent.value if is_confirmed else sent.get(timeout=self._timeout_s + _PATIENCE_S)
        except Exception as error:  # noqa: BLE001 - as in _start
            outcome = self._classify(record.topic, error)
            # If Kafka says which record is wrong, the others have an error without a class of its own.
            is_of_batch = isinstance(error, _OF_BATCH) or type(error) is kafka_errors.KafkaError
            return OfBatch(outcome) if is_of_batch else outcome
        return where(record.topic, metadata.partition, metadata.offset)

    def _classify(self, topic: str, error: Exception) -> Rejected | Unavailable:
        text = f"kafka:{topic} at {self._brokers}: {error}"
        if isinstance(error, _TOO_LARGE):
            return TooLarge(text)
        return Rejected(text) if isinstance(error, _PERMANENT) else Unavailable(text)

    def close(self, timeout_s: float) -> None:
        try:
            # `close` waits up to this time twice: for the records under way, and for its thread.
            self._producer.close(timeout=timeout_s / 2)
        except Exception as error:  # noqa: BLE001 - records that are not confirmed will be delivered again
            # Kafka hangs, for example.
            logging.getLogger(__name__).debug("closing a producer failed: %r", error)


def _make_producer(options: Mapping[str, Any]) -> KafkaProducer:
    client = WatchedClient()
    try:
        return KafkaProducer(**options, kafka_client=client)
    except BaseException as error:
        reason = client.reason(error)
        # Otherwise the number of open sockets would grow during an outage.
        client.close()
        if isinstance(error, _WRONG_OPTION) and not isinstance(error, kafka_errors.BrokerResponseError):
            # Only the names of the options, because a value may be a password.
            raise InvalidSettingError("rebound_kafka_options", sorted(options), f"kafka-python: {error}") from error
        if isinstance(error, kafka_errors.RetriableError) and reason is not error:
            raise kafka_errors.KafkaConnectionError(f"{type(reason).__name__}: {reason}") from error
        raise


def _quiet_logging() -> None:
    """Turn off kafka-python's log, unless its level was set.

    kafka-python logs each step of each connection, and each failed connection at ERROR. While Kafka does not answer,
    these are hundreds of lines a second. rebound logs the important ones itself.
    """
    log = logging.getLogger("kafka")
    if log.level == logging.NOTSET:
        log.setLevel(logging.CRITICAL)
