"""Reads the run's topics: along with the run for the display, and from the beginning to the end for the summary."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import UnreachableError
from ..message import headers
from .account import Account, Counts, DeadLetter
from .handler import Call
from .names import Names

#: The header of the records that end a topic; see `read_back`.
END = "rebound-demo-end"

_READ_BACK_TIMEOUT_S = 60.0


def add(account: Account, names: Names, record: Any) -> None:
    """Enter a record of any of the run's topics; one that the demo did not write is passed over."""
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


def open_reader(brokers: str, names: Names) -> Any:
    """A consumer in no group, at the beginning of all of the run's topics."""
    reader = KafkaConsumer(
        bootstrap_servers=brokers.split(","),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metrics_enabled=False,
        # Few answers with many records each: the display is not worth an answer for every record.
        fetch_min_bytes=64 * 1024,
        fetch_max_wait_ms=250,
    )
    reader.assign([TopicPartition(topic, number) for topic, count in names.topics.items() for number in range(count)])
    reader.seek_to_beginning()
    return reader


class Tail:
    """Keeps an account up to date while the run goes on, in a thread."""

    def __init__(self, brokers: str, names: Names, account: Account) -> None:
        self._names = names
        self._account = account
        self._lock = threading.Lock()
        self._reader = open_reader(brokers, names)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rebound-demo-tail", daemon=True)
        self._thread.start()

    def counts(self) -> Counts:
        with self._lock:
            return self._account.counts()

    def unfinished(self, produced: set[str]) -> int:
        with self._lock:
            return len(self._account.unfinished(produced))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                polled = self._reader.poll(timeout_ms=200)
            except KafkaError:
                # Kafka is away; the display stands still until it is back.
                self._stopping.wait(0.5)
                continue
            with self._lock:
                for batch in polled.values():
                    for record in batch:
                        add(self._account, self._names, record)
        with contextlib.suppress(KafkaError):
            self._reader.close()


def read_back(brokers: str, names: Names, account: Account, *, clock: Clock = SYSTEM_CLOCK) -> None:
    """Enter everything that lies in the run's topics; nobody may write to them any more.

    Each partition is first given a record that marks its end: an end offset, which would be simpler to ask for, is not
    exact on the embedded broker.

    Raises:
        UnreachableError: if Kafka does not give it all back within a minute.
    """
    mark = uuid.uuid4().bytes
    deadline = clock.monotonic() + _READ_BACK_TIMEOUT_S
    try:
        producer = KafkaProducer(bootstrap_servers=brokers.split(","), delivery_timeout_ms=30_000)
        try:
            sent = [
                producer.send(topic, b"", partition=number, headers=[(END, mark)])
                for topic, count in names.topics.items()
                for number in range(count)
            ]
            missing = {(found.topic, found.partition) for found in (future.get(timeout=40) for future in sent)}
        finally:
            producer.close(timeout=5)
        reader = open_reader(brokers, names)
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


def not_consumed(brokers: str, names: Names, account: Account) -> set[str]:
    """The ids of which a record lies behind what the consumer has committed, so that it would consume it again."""
    try:
        reader = KafkaConsumer(bootstrap_servers=brokers.split(","), group_id=names.group, enable_auto_commit=False)
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
