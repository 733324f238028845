"""Writes and reads the metadata of a commit: the offsets above the committed offset that are done.

The committed offset of a partition cannot pass its first record that is not done. So one slow record delays the commit
of many records behind it. When a consumer is killed, the next owner of the partition reads this metadata and skips the
records that are done.

The text is `rebound-done-1:` and the base64 of compressed lengths. From the committed offset on, the first length
counts offsets that are not done, the second length counts offsets that are done, and so on.
"""

from __future__ import annotations

import binascii
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from typing import Final

#: The first offset, and the offset after the last one.
OffsetRange = tuple[int, int]

_NAME: Final = "rebound-done-"
_PREFIX: Final = f"{_NAME}1:"

#: The longest text, in characters. By default, Kafka's `offset.metadata.max.bytes` allows 4096 bytes.
MAX_TEXT: Final = 4000

#: Bounds for a text that another program may have written: the bytes of the lengths, and the largest offset.
_MAX_LENGTHS: Final = 1_000_000
_MAX_OFFSET: Final = 2**63 - 1


class UnknownMetadataError(ValueError):
    """Another program, or a later version of rebound, wrote the metadata."""


def encode(offset: int, ranges: Sequence[OffsetRange], max_text: int = MAX_TEXT) -> str:
    """Return the metadata for a commit of `offset`, or the empty text if there are no ranges.

    Args:
        offset: the committed offset.
        ranges: the offsets above it that are done, in order, without overlaps.
        max_text: the longest text, in characters. If the text would be longer, the last ranges are left out.
    """
    kept = list(ranges)
    while kept:
        text = _PREFIX + b64encode(zlib.compress(_pack(offset, kept))).decode()
        if len(text) <= max_text:
            return text
        # The length grows about in proportion to the number of ranges. With a tenth less, the second try usually fits.
        del kept[min(len(kept) - 1, len(kept) * max_text * 9 // (len(text) * 10)) :]
    return ""


def decode(offset: int, text: str) -> list[OffsetRange]:
    """Return the ranges in a text of `encode`.

    Args:
        offset: the committed offset of the metadata.
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
