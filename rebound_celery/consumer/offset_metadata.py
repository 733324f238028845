"""Keeps in a commit's metadata which offsets beyond the committed one are done.

A partition can only be committed up to its first record that is not done. One slow record therefore holds the commit
back while many records behind it are done. When a consumer is killed, the next owner of the partition reads this
metadata and skips those records.

The text is `rebound-done-1:` and the base64 of compressed lengths: how many offsets from the committed one on are not
done, how many after them are done, and so on.
"""

from __future__ import annotations

import binascii
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Final

#: A first offset, and the offset behind the last one.
OffsetRange = tuple[int, int]

_NAME: Final = "rebound-done-"
_PREFIX: Final = f"{_NAME}1:"

#: The longest text, in characters. Kafka's `offset.metadata.max.bytes` allows 4096 bytes unless it is changed.
MAX_TEXT: Final = 4000

#: Bounds on a text that somebody else wrote: bytes of lengths, and the largest offset.
_MAX_LENGTHS: Final = 1_000_000
_MAX_OFFSET: Final = 2**63 - 1


class UnknownMetadataError(ValueError):
    """The metadata was not written by this version of rebound: by another program, or by a later version."""


def encode(offset: int, ranges: Sequence[OffsetRange], max_text: int = MAX_TEXT) -> str:
    """Return the metadata for a commit of `offset`, or the empty text if there is nothing to keep.

    Args:
        offset: the committed offset.
        ranges: the offsets above it that are done, in order, without overlaps.
        max_text: the longest text. The last ranges are left out where it would be longer.
    """
    kept = list(ranges)
    while kept:
        text = _PREFIX + b64encode(zlib.compress(_pack(offset, kept))).decode()
        if len(text) <= max_text:
            return text
        # The length grows about as the number of ranges does; a tenth less makes a second try succeed mostly.
        del kept[min(len(kept) - 1, len(kept) * max_text * 9 // (len(text) * 10)) :]
    return ""


def decode(offset: int, text: str) -> list[OffsetRange]:
    """Return the ranges that `encode` was given.

    Args:
        offset: the committed offset that the metadata belongs to.
        text: the metadata; the empty text holds no range.

    Raises:
        UnknownMetadataError: if another program or a later version wrote it.
        ValueError: if it is damaged.
    """
    if not text:
        return []
    if not text.startswith(_PREFIX):
        writer = "a later version of rebound" if text.startswith(_NAME) else "another program"
        raise UnknownMetadataError(f"it was written by {writer}")
    try:
        inflate = zlib.decompressobj()
        lengths = inflate.decompress(b64decode(text[len(_PREFIX) :], validate=True), _MAX_LENGTHS)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"it is damaged: {error}") from error
    if not inflate.eof:
        raise ValueError("it is damaged: it is cut off or too long")
    return _unpack(offset, lengths)


def _pack(offset: int, ranges: Iterable[OffsetRange]) -> bytes:
    packed = bytearray()
    for start, end in ranges:
        for length in (start - offset, end - start):
            while length > 0x7F:
                packed.append(length & 0x7F | 0x80)
                length >>= 7
            packed.append(length)
        offset = end
    return bytes(packed)


def _unpack(offset: int, packed: bytes) -> list[OffsetRange]:
    lengths: list[int] = []
    length = shift = 0
    for byte in packed:
        length |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift > 63:
                raise ValueError("it is damaged: a number is too large")
            continue
        lengths.append(length)
        length = shift = 0
    if shift or len(lengths) % 2:
        raise ValueError("it is damaged: it ends within a number")
    ranges: list[OffsetRange] = []
    for gap, count in zip(lengths[::2], lengths[1::2], strict=True):
        start = offset + gap
        offset = start + count
        if not count or offset > _MAX_OFFSET:
            raise ValueError("it is damaged: a range is empty or too long")
        ranges.append((start, offset))
    return ranges
