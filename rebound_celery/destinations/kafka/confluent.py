"""Produces with confluent-kafka, which wraps librdkafka. It takes a quarter of kafka-python's processor time."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from kombu.utils.compat import detect_environment

from ...clock import SYSTEM_CLOCK, Clock
from .. import Rejected, Unavailable
from .confluent_producer import make_producer, quiet_logger
from .options import MAX_REQUEST_BYTES, translate
from .port import LOOK_S, OfBatch, Produced, ProducerRecord, TooLarge, Wait, never_free, where, whole_names

_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})

#: Errors after which this record can never be produced. After every other error the record waits: an error that
#: concerns all records, for example a wrong password, must not move all of them to a dead letter topic.
_PERMANENT = frozenset(
    {
        KafkaError.INVALID_RECORD,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
    }
)

#: Errors that Kafka gives for all records of a batch because of one of them.
_OF_BATCH = _TOO_LARGE | {
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    # Kafka has named another record of the batch.
    KafkaError._INVALID_DIFFERENT_RECORD,  # noqa: SLF001 # of confluent-kafka
}

#: The partition number with which librdkafka's partitioner decides.
_ANY_PARTITION = -1

#: How much longer than the delivery timeout a confirmation is waited for, in seconds. librdkafka reports on every
#: record within the delivery timeout; this guards against its faults.
_PATIENCE_S = 10.0

#: How long one call into librdkafka waits, in seconds. Signals are handled between two calls.
_POLL_S = 0.2

#: The pause between two polls under gevent and eventlet, where a poll must not wait, in seconds. It doubles from the
#: shortest to the longest.
_SHORTEST_PAUSE_S = 0.0005
_LONGEST_PAUSE_S = 0.01


class _Batch:
    """Records that were handed over together, and the outcome of each."""

    def __init__(self, client: ConfluentClient, records: Sequence[ProducerRecord]) -> None:
        self.records = records
        self.outcomes: list[Produced | None] = [None] * len(records)
        #: One entry for each outcome. Unlike a count, it is safe with several threads.
        self._settled: list[int] = []
        #: Topics that Kafka was asked for because a partition was not known -> the fault, if it did not answer.
        self.read_again: dict[str, Unavailable | None] = {}
        self.look_again = threading.Event()
        self._client = client

    def report(self, index: int, error: Any, message: Any) -> None:
        """Take librdkafka's report on one record. The thread that polls calls this."""
        if error is None:
            self.settle(index, where(message.topic(), message.partition(), message.offset()))
        else:
            outcome = self._client.classify(self.records[index], error)
            self.settle(index, OfBatch(outcome) if error.code() in _OF_BATCH else outcome)

    def settle(self, index: int, outcome: Produced) -> None:
        self.outcomes[index] = outcome
        self._settled.append(index)
        if self.is_complete:
            self.look_again.set()

    @property
    def is_complete(self) -> bool:
        return len(self._settled) >= len(self.records)


class _LastError:
    """Keeps librdkafka's last error about a connection, because a record's own error says only that it timed out."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, error: KafkaError) -> None:
        # librdkafka says after each error that all brokers are down, which does not say why.
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self.text:  # noqa: SLF001 # of confluent-kafka
            self.text = error.str()


class ConfluentClient:
    """One confluent-kafka Producer. See `KafkaClient`.

    Args:
        brokers: each as `host:port`, with commas between them.
        options: see `options.py`.
        timeout_s: seconds until an unconfirmed record counts as an outage.
        alone: whether each record has a batch of its own.

    Raises:
        InvalidSettingError: if librdkafka does not have an option, or cannot use its value.
    """

    def __init__(
        self,
        brokers: str,
        options: Mapping[str, Any],
        timeout_s: float,
        *,
        alone: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._brokers = brokers
        self._timeout_s = timeout_s
        self._clock = clock
        # A separate object. A method of this client would make a reference cycle with the producer. The garbage
        # collector would then free the producer at any time, perhaps in a child process.
        self._last_error = _LastError()
        #: Held by the one thread that waits in librdkafka. This thread takes the reports for all threads.
        self._polling = threading.Lock()
        self._waiting: set[_Batch] = set()
        # librdkafka waits in C, where gevent and eventlet cannot switch to another greenlet.
        self._may_block = detect_environment() == "default"
        timeout_ms = max(round(timeout_s * 1000), 1)
        self._producer = make_producer(
            {
                "message.timeout.ms": timeout_ms,
                "request.timeout.ms": min(timeout_ms, 10_000),
                "topic.metadata.propagation.max.ms": min(timeout_ms, 10_000),
                "message.max.bytes": MAX_REQUEST_BYTES,
                "batch.size": 128 * 1024,
                # This delay lets batches gather. Without it, librdkafka makes three times as many requests.
                "linger.ms": min(0.5, timeout_ms / 2),
                "reconnect.backoff.ms": 200,
                "reconnect.backoff.max.ms": 2_000,
                # It chooses the same partition as Kafka's Java client and kafka-python.
                "partitioner": "murmur2_random",
            },
            translate(options),
            {
                # No message may be lost, so these are fixed. `translate` refuses other values.
                "bootstrap.servers": brokers,
                "acks": "all",
                "enable.idempotence": False,
                "delivery.report.only.error": False,
                "error_cb": self._last_error,
                "logger": quiet_logger(),
                **({"batch.num.messages": 1} if alone else {}),
            },
        )
        _clients.add(self)

    def start(self, records: Sequence[ProducerRecord]) -> Wait:
        batch = _Batch(self, records)
        deadline = self._clock.monotonic() + self._timeout_s + _PATIENCE_S
        for index in range(len(records)):
            self._produce(batch, index, deadline)
        return lambda: self._wait(batch, deadline)

    def _produce(self, batch: _Batch, index: int, deadline: float) -> None:
        record = batch.records[index]
        topic, partition, key, value, headers = record
        while True:
            try:
                self._producer.produce(
                    topic,
                    value,
                    key,
                    _ANY_PARTITION if partition is None else partition,
                    on_delivery=partial(batch.report, index),
                    headers=whole_names(headers),
                )
            except BufferError as error:
                # librdkafka's queue is full (1 GB). Each report that is taken makes room.
                if self._clock.monotonic() < deadline:
                    self._poll(_LONGEST_PAUSE_S)
                    continue
                outcome: Produced | None = Unavailable(f"kafka:{topic} at {self._brokers}: {error}")
            except KafkaException as error:
                outcome = self._refused(batch, record, error.args[0])
            except Exception as error:  # noqa: BLE001 - the library has a fault: the message is kept
                outcome = Unavailable(f"kafka:{topic} at {self._brokers}: {error!r}")
            else:
                return
            if outcome is not None:
                batch.settle(index, outcome)
                return

    def _refused(self, batch: _Batch, record: ProducerRecord, error: KafkaError) -> Produced | None:
        """The outcome of a record that librdkafka refuses at once; None if it may take it now, with new metadata."""
        topic = record.topic
        if error.code() == KafkaError._UNKNOWN_PARTITION and topic not in batch.read_again:  # noqa: SLF001 # of confluent-kafka
            batch.read_again[topic] = None
            try:
                self._producer.list_topics(topic, timeout=min(self._timeout_s, LOOK_S))
            except KafkaException as fault:
                batch.read_again[topic] = Unavailable(f"kafka:{topic} at {self._brokers}: {fault.args[0].str()}")
            else:
                return None
        return batch.read_again.get(topic) or self.classify(record, error)

    def _wait(self, batch: _Batch, deadline: float) -> list[Produced]:
        self._serve(batch, deadline)
        silence = "librdkafka has not reported on the record"
        return [
            Unavailable(f"kafka:{record.topic} at {self._brokers}: {silence}") if outcome is None else outcome
            for record, outcome in zip(batch.records, batch.outcomes, strict=True)
        ]

    def _serve(self, batch: _Batch, deadline: float) -> None:
        """Take librdkafka's reports until the batch is complete. Only one thread polls at a time; the others wait."""
        pause_s = _SHORTEST_PAUSE_S
        self._waiting.add(batch)
        try:
            while not batch.is_complete and self._clock.monotonic() < deadline:
                if not self._may_block:
                    if not self._producer.poll(0):
                        self._clock.sleep(pause_s)
                        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                elif self._polling.acquire(blocking=False):
                    try:
                        while not batch.is_complete and self._clock.monotonic() < deadline:
                            self._producer.poll(_POLL_S)
                    finally:
                        self._polling.release()
                        # Another thread must now poll for the remaining batches.
                        for other in tuple(self._waiting):
                            other.look_again.set()
                else:
                    batch.look_again.wait(_POLL_S)
                    batch.look_again.clear()
        finally:
            self._waiting.discard(batch)

    def _poll(self, timeout_s: float) -> None:
        if self._may_block:
            self._producer.poll(timeout_s)
        elif not self._producer.poll(0):
            self._clock.sleep(timeout_s)

    def classify(self, record: ProducerRecord, error: KafkaError) -> Rejected | Unavailable:
        code = error.code()
        if code == KafkaError._UNKNOWN_PARTITION and record.partition is not None:  # noqa: SLF001 # of confluent-kafka
            return Rejected(f"kafka:{record.topic} has no partition {record.partition}")
        text = f"kafka:{record.topic} at {self._brokers}: {error.str()}"
        if code in _TOO_LARGE:
            return TooLarge(text)
        if code in _PERMANENT:
            return Rejected(text)
        return Unavailable(f"{text} ({self._last_error.text})" if self._last_error.text else text)

    def close(self, timeout_s: float) -> None:
        deadline = self._clock.monotonic() + timeout_s
        while len(self._producer) and self._clock.monotonic() < deadline:
            self._poll(_LONGEST_PAUSE_S)
        # After a purge, no record is under way. Otherwise freeing the producer would wait for them.
        self._producer.purge(blocking=False)
        self._producer.poll(0)


#: All clients of this process, closed ones included.
_clients: weakref.WeakSet[ConfluentClient] = weakref.WeakSet()


def _after_fork() -> None:
    # Freeing a producer waits for its threads. They do not exist in the child, so the wait would never end.
    for client in list(_clients):
        never_free(client)
    _clients.clear()


os.register_at_fork(after_in_child=_after_fork)
