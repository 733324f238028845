"""The metadata of a commit: every set of ranges is read back within its bounds. Foreign and damaged texts fail."""

from __future__ import annotations

import time
import zlib
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebound_celery.consumer.offset_metadata import MAX_TEXT, UnknownMetadataError, decode, encode

OFFSETS = st.integers(0, 2**62)


@st.composite
def commits(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """A committed offset, and ranges above it in order."""
    offset = end = draw(OFFSETS)
    ranges = []
    for gap, count in draw(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), max_size=200)):
        ranges.append((end + gap, end + gap + count))
        end += gap + count
    return offset, ranges


@given(commits())
def test_what_is_encoded_is_decoded(commit: tuple[int, list[tuple[int, int]]]) -> None:
    offset, ranges = commit

    text = encode(offset, ranges)

    assert len(text) <= MAX_TEXT
    assert decode(offset, text) == ranges
    assert (text == "") == (not ranges)


@given(commits(), st.integers(0, 400))
def test_a_text_that_would_be_too_long_loses_the_last_ranges(
    commit: tuple[int, list[tuple[int, int]]], longest: int
) -> None:
    offset, ranges = commit

    text = encode(offset, ranges, longest)

    assert len(text) <= longest
    kept = decode(offset, text)
    assert kept == ranges[: len(kept)]


def test_ten_thousand_records_behind_a_slow_one_take_few_characters() -> None:
    assert len(encode(7, [(8, 10_008)])) < 50
    every_second = [(offset, offset + 1) for offset in range(8, 10_008, 2)]
    assert decode(7, encode(7, every_second)) == every_second


@pytest.mark.parametrize("text", ["x", "NO_METADATA", "rebound-done-2:AAAA", '{"a": 1}'])
def test_text_of_another_program_or_a_later_version_is_unknown(text: str) -> None:
    with pytest.raises(UnknownMetadataError):
        decode(0, text)


def packed(lengths: bytes) -> str:
    return "rebound-done-1:" + b64encode(zlib.compress(lengths)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "rebound-done-1:",
        "rebound-done-1:*",
        "rebound-done-1:AAAA",
        encode(0, [(1, 2), (5, 9)])[:-4],
        packed(b"\x01"),
        packed(b"\x01\x00"),
        packed(b"\x80"),
        packed(b"\x01" + b"\xff" * 9 + b"\x01"),
        packed(b"\x01" * 3_000_000),
    ],
    ids=["empty", "no base64", "no zlib", "cut off", "half", "empty range", "half a number", "too large", "a bomb"],
)
def test_damaged_text_is_told_as_such(text: str) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode(2**63 - 2, text)


@given(st.text() | st.binary().map(lambda raw: packed(raw)))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    try:
        ranges = decode(0, text)
    except ValueError:
        return
    assert all(start < end for start, end in ranges)


def test_a_hostile_text_takes_no_time() -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match="damaged"):
        decode(0, packed(b"\xff" * 900_000))
    assert time.process_time() - began < 0.5
