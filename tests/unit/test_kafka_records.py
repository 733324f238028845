"""The records of a batch are the same as kafka-python reads them, however they look."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from rebound_celery.compat import kafka_records

texts = st.text(max_size=80)
values = st.none() | st.binary(max_size=100) | st.integers(8_000, 9_000).map(bytes)
headers = st.lists(st.tuples(texts, st.none() | st.binary(max_size=200) | st.just(bytes(10_000))), max_size=70)
times = st.integers(-70, 20_000) | st.integers(0, 2**40)


@pytest.fixture(autouse=True)
def own_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as a consumer does, and leave other tests as they were."""
    monkeypatch.setattr(DefaultRecordBatch, "_read_msg", upstream())
    kafka_records.read_all_records()


def upstream() -> Any:
    """Return kafka-python's own function, whether or not it is replaced at present."""
    function: Any = DefaultRecordBatch._read_msg
    return getattr(function, "upstream", function)


def build(records: list[tuple[int, int, bytes | None, bytes | None, list[Any]]]) -> bytearray:
    """Return a batch of records: offset, timestamp, key, value and headers of each."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 30)
    for offset, timestamp, key, value, head in records:
        builder.append(offset, timestamp, key, value, head)
    return bytearray(builder.build())


def read(buffer: bytes, reader: Any = None) -> list[tuple[Any, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        if reader is not None:
            patch.setattr(DefaultRecordBatch, "_read_msg", reader)
        return [
            (r.offset, r.timestamp, r.timestamp_type, r.key, r.value, r.headers, r.size_in_bytes)
            for r in DefaultRecordBatch(buffer)
        ]


@given(st.lists(st.tuples(st.integers(0, 10_000), times, values, values, headers), min_size=1, max_size=4))
def test_each_record_is_what_kafka_python_reads(drawn: list[Any]) -> None:
    offset, records = 0, []
    for gap, timestamp, key, value, head in drawn:
        records.append((offset, 10**12 + timestamp, key, value, head))
        offset += gap + 1
    buffer = build(records)

    assert read(buffer) == read(buffer, upstream())


@given(st.integers(0, 300), st.integers(0, 255))
def test_a_damaged_record_has_the_result_that_kafka_python_gives_it(place: int, byte: int) -> None:
    buffer = build([(n, 10**12 + n, b"key-1", b"x" * 70, [("name", b"v")]) for n in range(3)])
    first = DefaultRecordBatch.HEADER_STRUCT.size
    buffer[first + place % (len(buffer) - first)] = byte

    theirs = upstream()

    assert outcome(buffer) == outcome(buffer, lambda batch: kafka_records._read_leniently(batch, theirs))


def outcome(buffer: bytes, reader: Any = None) -> object:
    try:
        return read(buffer, reader)
    except CorruptRecordError as error:
        return str(error)


def test_usual_records_do_without_kafka_pythons_own_function(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = build([(n, 10**12 + n, f"key-{n}".encode(), b"x" * 200, [("rebound-attempt", b"2")]) for n in range(300)])
    expected = read(buffer, upstream())
    monkeypatch.setattr(kafka_records, "_read_leniently", None)

    assert read(buffer) == expected


def test_timestamps_of_the_broker_are_read() -> None:
    buffer = build([(0, 10**12, b"k", b"v", []), (1, 10**12 + 5, b"k", b"v", [])])
    # The attributes of the batch: bit 3 says that the broker has set the timestamps.
    struct.pack_into(">h", buffer, 21, DefaultRecordBatch.TIMESTAMP_TYPE_MASK)

    assert read(buffer) == read(buffer, upstream())
    assert [record[2] for record in read(buffer)] == [1, 1]
