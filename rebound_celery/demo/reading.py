"""Reads the run's topics: during the run for the display, and afterwards as a whole for the summary."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import UnreachableError
from ..message import headers
from .account import Account, Counts, DeadLetter
from .handler import Call
from .names import Names

#: The header of the record that marks the end of a partition; see `read_back`.
END = "rebound-demo-end"

_READ_BACK_TIMEOUT_S = 60.0

#: Options of Kafka clients for SASL and TLS.
Security = Mapping[str, Any]


def add(account: Account, names: Names, record: Any) -> None:
    """Add a record of one of the run's topics to the account. Records that the demo did not write are skipped."""
    fields = dict(record.headers)
    if END in fields:
        return
    with contextlib.suppress(ValueError, KeyError, TypeError):
        if record.topic == names.results:
            account.add_call(Call.from_json(record.value))
        elif record.topic == names.topic:
            attempt = int(fields.get(headers.ATTEMPT, b"1"))
            account.add_delivery(json.loads(record.value)["id"], attempt, record.partition, record.offset)
        else:
            texts = {name: (value or b"").decode() for name, value in fields.items()}
            account.add_dead_letter(DeadLetter(json.loads(record.value)["id"], texts))


def open_reader(brokers: str, names: Names, security: Security) -> Any:
    """Open a consumer without a group at the beginning of all of the run's topics."""
    reader = KafkaConsumer(
        bootstrap_servers=brokers.split(","),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metrics_enabled=False,
        # The broker then sends few answers with many records each; the display needs no answer for every record.
        fetch_min_bytes=64 * 1024,
        fetch_max_wait_ms=250,
        **security,
    )
    reader.assign([TopicPartition(topic, number) for topic, count in names.topics.items() for number in range(count)])
    reader.seek_to_beginning()
    return reader


class LiveAccount:
    """Keeps an account up to date during the run, in a thread."""

    def __init__(self, brokers: str, names: Names, account: Account, security: Security) -> None:
        self._names = names
        self._account = account
        self._lock = threading.Lock()
        self._reader = open_reader(brokers, names, security)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rebound-demo-account", daemon=True)
        self._thread.start()

    def counts(self, produced: set[str], now_ms: int) -> Counts:
        with self._lock:
            return self._account.counts(produced, now_ms)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                polled = self._reader.poll(timeout_ms=200)
            except KafkaError:
                # Kafka is away, and the display does not change until it is back.
                self._stopping.wait(0.5)
                continue
            with self._lock:
                for batch in polled.values():
                    for record in batch:
                        add(self._account, self._names, record)
        with contextlib.suppress(KafkaError):
            self._reader.close()


def read_back(brokers: str, names: Names, account: Account, security: Security, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Add all records of the run's topics to the account. Nobody may write to the topics any more.

    First it sends a record to each partition that marks its end. Asking for the end offset would be simpler, but the
    embedded broker does not answer exactly.

    Raises:
        UnreachableError: if the marks have not been read within a minute.
    """
    mark = uuid.uuid4().bytes
    deadline = clock.monotonic() + _READ_BACK_TIMEOUT_S
    try:
        producer = KafkaProducer(bootstrap_servers=brokers.split(","), delivery_timeout_ms=30_000, **security)
        try:
            sent = [
                producer.send(topic, b"", partition=number, headers=[(END, mark)])
                for topic, count in names.topics.items()
                for number in range(count)
            ]
            missing = {(found.topic, found.partition) for found in (future.get(timeout=40) for future in sent)}
        finally:
            producer.close(timeout=5)
        reader = open_reader(brokers, names, security)
        try:
            while missing:
                if clock.monotonic() > deadline:
                    raise UnreachableError("Kafka", brokers, f"it did not give back the end of {sorted(missing)}")
                for batch in reader.poll(timeout_ms=500).values():
                    for record in batch:
                        if (END, mark) in record.headers:
                            missing.discard((record.topic, record.partition))
                        add(account, names, record)
        finally:
            reader.close()
    except KafkaError as error:
        raise UnreachableError("Kafka", brokers, error) from error


def not_consumed(brokers: str, names: Names, account: Account, security: Security) -> set[str]:
    """The ids of records behind the committed offsets, which the consumer would read again."""
    try:
        reader = KafkaConsumer(
            bootstrap_servers=brokers.split(","), group_id=names.group, enable_auto_commit=False, **security
        )
        try:
            committed = {
                number: reader.committed(TopicPartition(names.topic, number)) or 0
                for number in range(names.topics[names.topic])
            }
        finally:
            reader.close()
    except KafkaError as error:
        raise UnreachableError("Kafka", brokers, error) from error
    return {
        message_id
        for message_id, positions in account.positions.items()
        if any(offset >= committed[partition] for partition, offset in positions)
    }
