"""Records that kafka-python cannot read stop at most their own partition. `on_unreadable` decides what follows."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from kafka import KafkaProducer, codec
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatch

from rebound_celery.compat.kafka_records import read_all_records
from rebound_celery.consumer import health_reporter, unreadable
from rebound_celery.errors import DeadLetterLimitError
from rebound_celery.message.address import KafkaAddress
from tests.integration.test_consumer import Fixture, fix, nothing, numbers
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rebound_celery.message import Record

__all__ = ["fix"]

DAMAGED = b"damaged " * 20


@pytest.fixture
def produce_batch(kafka_brokers: str) -> Callable[..., None]:
    """`produce_batch(topic, values, partition=0, compression=None)` produces the values as one batch."""

    def produce(topic: str, values: list[bytes], partition: int = 0, compression: str | None = None) -> None:
        with KafkaProducer(bootstrap_servers=kafka_brokers, compression_type=compression, linger_ms=300) as producer:
            for value in values:
                producer.send(topic, value, partition=partition)
            producer.flush(10)

    return produce


class Fault:
    """What makes some batches unreadable while it lasts, and how such a batch is produced."""

    def __init__(self, compression: str | None, error: str, cure: str) -> None:
        self.compression = compression
        self.error = error
        self.cure = cure
        self.lasts = True


@pytest.fixture(params=["codec", "damage", "structure"])
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fault:
    if request.param == "codec":
        # The one codec that needs no package, as if it did; for reading only, or the producer could not write it.
        fault = Fault("gzip", "UnsupportedCodecError", 'pip install "kafka-python[lz4,snappy,zstd]"')
        check = DefaultRecordBatch._assert_has_codec

        def has_codec(batch: Any, number: int) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(codec, "has_gzip", lambda: not fault.lasts)
                check(batch, number)

        monkeypatch.setattr(DefaultRecordBatch, "_assert_has_codec", has_codec)
    elif request.param == "damage":
        fault = Fault(None, "failed crc check", "set on_unreadable to 'dead-letter' or 'skip'")
        validate = DefaultRecordBatch.validate_crc
        monkeypatch.setattr(
            DefaultRecordBatch,
            "validate_crc",
            lambda batch: validate(batch) and not (fault.lasts and DAMAGED in batch._buffer),
        )
    else:
        # With a right CRC: a producer's fault. The first record of the batch is sound.
        fault = Fault(None, "Found invalid record structure", "set on_unreadable to 'dead-letter' or 'skip'")
        read_all_records()
        read = DefaultRecordBatch._read_msg

        def read_damaged(batch: Any) -> Any:
            if fault.lasts and batch._next_record_index == 1 and DAMAGED in batch._buffer:
                raise IndexError("no such byte")
            return read(batch)

        # Or the consumer would put its own function around it, which reads usual records by itself.
        read_damaged.upstream = read  # type: ignore[attr-defined]
        monkeypatch.setattr(DefaultRecordBatch, "_read_msg", read_damaged)
    return fault


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if getattr(record, "event", "") == "unreadable"]


def first_unread(fault: Fault) -> int:
    """Two records are before the batch, and where its structure is damaged, its own first one is read."""
    return 3 if fault.error == "Found invalid record structure" else 2


def test_partition_stands_still_and_the_others_go_on(
    fix: Fixture,
    make_topic: Any,
    produce: Any,
    produce_batch: Any,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(unreadable, "FIRST_TRY_S", 1.0)
    monkeypatch.setattr(health_reporter, "CHECK_INTERVAL_S", 0.2)
    topic, first = make_topic(2), first_unread(fault)
    produce(topic, numbers(2), partition=0)
    produce_batch(topic, [DAMAGED, DAMAGED, DAMAGED], compression=fault.compression)
    produce_batch(topic, [b"behind"])
    seen: list[Record] = []
    health_file = tmp_path / "health"
    consumer = fix.start(topic, seen.append, health_file=health_file)

    wait_until(lambda: len(reports(caplog)) == 1, timeout=30)
    produce(topic, numbers(5), partition=1)
    wait_until(lambda: sum(record.partition == 1 for record in seen) == 5, timeout=10)
    wait_until(lambda: len(reports(caplog)) == 2)
    began, before = time.monotonic(), time.process_time()
    time.sleep(1)
    busy = (time.process_time() - before) / (time.monotonic() - began)
    detail = json.loads(health_file.read_text())["detail"]

    assert all(f"{topic}[0]@{first} cannot be read" in report for report in reports(caplog))
    assert all(fault.error in report and fault.cure in report for report in reports(caplog))
    assert ["tried again in 1 s" in reports(caplog)[0], "tried again in 2 s" in reports(caplog)[1]] == [True, True]
    assert f"{topic}[0]@{first} cannot be read" in detail
    assert busy < 0.5, "of one core; a poll that spins takes all of it"
    assert sum(record.partition == 0 for record in seen) == first
    wait_until(lambda: fix.committed(topic, 0) == first and fix.committed(topic, 1) == 5)

    fault.lasts = False
    wait_until(lambda: sum(record.partition == 0 for record in seen) == 6, timeout=15)
    assert [record.offset for record in seen if record.partition == 0] == list(range(6))
    wait_until(lambda: fix.committed(topic, 0) == 6)
    wait_until(lambda: "unreadable_back" in [getattr(record, "event", "") for record in caplog.records])
    assert consumer.close(10)


def test_consumer_before_unreadable_records_stops_when_told(
    fix: Fixture, make_topic: Any, produce_batch: Any, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    topic = make_topic(1)
    produce_batch(topic, [DAMAGED, DAMAGED], compression=fault.compression)
    consumer = fix.start(topic, nothing)
    wait_until(lambda: reports(caplog), timeout=30)
    time.sleep(1)  # several polls more

    began = time.monotonic()
    assert consumer.close(15)
    assert time.monotonic() - began < 5
    assert len(reports(caplog)) == 1


def test_unreadable_batch_is_skipped(
    fix: Fixture, make_topic: Any, produce: Any, produce_batch: Any, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    topic, first = make_topic(1), first_unread(fault)
    produce(topic, numbers(2))
    produce_batch(topic, [DAMAGED, DAMAGED, DAMAGED], compression=fault.compression)
    produce_batch(topic, [b"behind"])
    seen: list[Record] = []
    consumer = fix.start(topic, seen.append, on_unreadable="skip")

    wait_until(lambda: seen and seen[-1].value == b"behind", timeout=30)
    assert [record.offset for record in seen] == [*range(first), 5]
    wait_until(lambda: fix.committed(topic) == 6)
    (report,) = reports(caplog)
    assert f"{topic}[0]@{first} cannot be read" in report
    assert "it is passed over, nobody handles it, and the consumer goes on at offset 5" in report
    assert fix.app.messages == []
    assert (consumer.stats().skipped, consumer.stats().total) == (1, first + 1)


def test_unreadable_batches_beyond_the_limit_on_dead_letters_stop_the_consumer(
    fix: Fixture, make_topic: Any, produce_batch: Any, fault: Fault
) -> None:
    topic = make_topic(1)
    for _ in range(3):
        produce_batch(topic, [DAMAGED, DAMAGED], compression=fault.compression)
    consumer = fix.start(topic, nothing, on_unreadable="dead-letter", dead_letter_share=0.02)

    with pytest.raises(
        DeadLetterLimitError, match=rf"2 of the last 100 records are dead letters, and {topic}\[0\]@[45] "
    ):
        consumer.join(30)

    assert [letter.reason for letter in fix.app.messages] == ["unreadable"] * 2
    assert fix.committed(topic) in (4, 5)


def test_unreadable_batch_becomes_a_dead_letter(
    fix: Fixture,
    make_topic: Any,
    produce: Any,
    produce_batch: Any,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    topic, first = make_topic(1), first_unread(fault)
    produce(topic, numbers(2))
    produce_batch(topic, [DAMAGED, DAMAGED, DAMAGED], compression=fault.compression)
    seen: list[Record] = []
    # The consumer asks for Redis at its start; from then on it is away, and what is not stored must not be committed.
    monkeypatch.setattr(fix.app, "check_redis", fix.app.asleep.set)
    consumer = fix.start(topic, seen.append, on_unreadable="dead-letter")
    wait_until(lambda: fix.app.tries, timeout=30)
    wait_until(lambda: fix.committed(topic) == first)
    fix.app.asleep.clear()
    wait_until(lambda: fix.app.messages, timeout=30)
    produce_batch(topic, [b"behind"])
    wait_until(lambda: seen and seen[-1].value == b"behind", timeout=30)
    wait_until(lambda: fix.committed(topic) == 6)

    (letter,) = fix.app.messages
    assert (letter.reason, letter.attempt, letter.group, letter.key) == ("unreadable", 1, fix.group, None)
    assert letter.dead_destination == KafkaAddress(f"{topic}-dlq")
    assert letter.origin is not None
    assert (letter.origin.topic, letter.origin.partition, letter.origin.offset) == (topic, 0, first)
    assert letter.failure is not None
    assert fault.error in str(letter.failure)
    assert (consumer.stats().dead, consumer.stats().total) == (1, first + 2)
    assert len(reports(caplog)) == 1
    # With the codec, or without the fault, the letter holds all that was in the batch.
    fault.lasts = False
    batch = MemoryRecords(letter.value).next_batch()
    assert [(record.offset, record.value) for record in batch] == [(offset, DAMAGED) for offset in (2, 3, 4)]
    assert batch.base_offset == 2
