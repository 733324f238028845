"""Zstandard with a dictionary, for many small messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from importlib import resources
from typing import cast

import zstandard

from ..errors import WireFormatError

#: No message becomes longer than this when it is decompressed. Redis holds no longer values either.
MAX_BYTES = 512 * 1024 * 1024

#: Every frame begins with these bytes, so they are not stored.
_MAGIC = zstandard.FRAME_HEADER

#: Higher levels gain less than 3 bytes a message; from 5 on they take twice the time.
_LEVEL = 1

#: One call for many makes contexts of its own, which does not pay for fewer than this.
_FEW = 8

#: Frames that become longer than this are decompressed one by one: one call for many would hold all of them at once.
_LARGE = 1024 * 1024


def _segments(result: zstandard.BufferWithSegmentsCollection) -> Iterable[zstandard.BufferSegment]:
    """Return what is in a result of zstandard's, whose types leave out that it can be iterated over."""
    return cast("Iterable[zstandard.BufferSegment]", result)


class Compression:
    """Compresses and decompresses with one trained dictionary. Threads may share it.

    A zstandard context serves one call at a time and is used again, for making one takes 20 times as long as using it.
    Those that are not in use wait in a deque, whose `pop` and `append` are atomic.

    Args:
        number: which of the dictionaries in this package, from 1.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._dictionary: zstandard.ZstdCompressionDict | None = None
        self._compressors: deque[zstandard.ZstdCompressor] = deque()
        self._decompressors: deque[zstandard.ZstdDecompressor] = deque()

    def _load(self) -> zstandard.ZstdCompressionDict:
        if self._dictionary is None:
            file = resources.files(__package__) / "dictionaries" / f"{self._number}.zdict"
            dictionary = zstandard.ZstdCompressionDict(file.read_bytes(), dict_type=zstandard.DICT_TYPE_FULLDICT)
            dictionary.precompute_compress(level=_LEVEL)
            self._dictionary = dictionary
        return self._dictionary

    def _make_compressor(self) -> zstandard.ZstdCompressor:
        return zstandard.ZstdCompressor(level=_LEVEL, dict_data=self._load(), write_dict_id=False)

    def compress(self, data: bytes) -> bytes:
        """Return a frame without its first four bytes."""
        try:
            compressor = self._compressors.pop()
        except IndexError:
            compressor = self._make_compressor()
        frame = compressor.compress(data)
        self._compressors.append(compressor)
        return frame[4:]

    def compress_many(self, items: list[bytes]) -> list[bytes]:
        """Return what `compress` does for each of `items`.

        zstandard lets other threads run during each call. Where another thread is busy, the caller then waits for its
        turn, 5 ms, once for each call: 8,000 messages a second one by one, and 60,000 in one call for 500.
        """
        if len(items) < _FEW:
            return [self.compress(item) for item in items]
        try:
            compressor = self._compressors.pop()
        except IndexError:
            compressor = self._make_compressor()
        frames = [segment.tobytes()[4:] for segment in _segments(compressor.multi_compress_to_buffer([*items]))]
        self._compressors.append(compressor)
        return frames

    def decompress(self, frame: bytes) -> bytes:
        """Read what `compress` wrote.

        Raises:
            WireFormatError: if it is damaged, or longer than MAX_BYTES.
        """
        frame = _MAGIC + frame
        decompressor = self._take_decompressor()
        try:
            # Without its length in the frame, zstandard would ask for the memory of the longest.
            if not 0 <= zstandard.frame_content_size(frame) <= MAX_BYTES:
                raise WireFormatError("a compressed message does not say how long it is, or is too long")
            # By position: no bound of its own, one frame, and nothing after it.
            return decompressor.decompress(frame, 0, False, False)
        except (zstandard.ZstdError, MemoryError) as error:
            raise WireFormatError(f"a compressed message is damaged: {error}") from error
        finally:
            self._decompressors.append(decompressor)

    def decompress_many(self, frames: list[bytes]) -> list[bytes] | None:
        """Return what `decompress` does for each frame, in one call; None where they need a call each.

        See `compress_many` for why. Damaged and large frames need a call each.
        """
        if len(frames) < _FEW:
            return None
        whole = [_MAGIC + frame for frame in frames]
        decompressor = self._take_decompressor()
        try:
            if not all(0 <= zstandard.frame_content_size(frame) <= _LARGE for frame in whole):
                return None
            return [segment.tobytes() for segment in _segments(decompressor.multi_decompress_to_buffer([*whole]))]
        except (zstandard.ZstdError, MemoryError):
            return None
        finally:
            self._decompressors.append(decompressor)

    def _take_decompressor(self) -> zstandard.ZstdDecompressor:
        try:
            return self._decompressors.pop()
        except IndexError:
            return zstandard.ZstdDecompressor(dict_data=self._load())
