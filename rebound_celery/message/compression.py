"""Zstandard with a dictionary, for many small messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from importlib import resources
from typing import cast

import zstandard

from ..errors import WireFormatError

#: The longest message after decompression, in bytes. Redis does not hold longer values either.
MAX_BYTES = 512 * 1024 * 1024

#: Every frame begins with these bytes, so they are not stored.
_MAGIC = zstandard.FRAME_HEADER

#: Higher levels save less than 3 bytes a message. Levels from 5 on take twice the time.
_LEVEL = 1

#: The fewest items for which one call for all is faster. Such a call makes its own contexts, and that takes time.
_FEW = 8

#: Frames with longer content than this, in bytes, are decompressed one by one. One call for many would hold all
#: contents in memory at once.
_LARGE = 1024 * 1024


def _segments(result: zstandard.BufferWithSegmentsCollection) -> Iterable[zstandard.BufferSegment]:
    """Return the segments of a zstandard result. The result is iterable, but its type hints do not say so."""
    return cast("Iterable[zstandard.BufferSegment]", result)


class Compression:
    """Compresses and decompresses with one trained dictionary. Threads may share it.

    A zstandard context serves one call at a time. It is used again, because making a context takes 20 times as long as
    using one. A deque holds the unused contexts; its `pop` and `append` are atomic.

    Args:
        number: the number of the dictionary in this package; the first is 1.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._dictionary: zstandard.ZstdCompressionDict | None = None
        self._compressors: deque[zstandard.ZstdCompressor] = deque()
        self._decompressors: deque[zstandard.ZstdDecompressor] = deque()

    def load(self) -> zstandard.ZstdCompressionDict:
        """Return the dictionary, which is read from its file when first needed."""
        if self._dictionary is None:
            file = resources.files(__package__) / "dictionaries" / f"{self._number}.zdict"
            dictionary = zstandard.ZstdCompressionDict(file.read_bytes(), dict_type=zstandard.DICT_TYPE_FULLDICT)
            dictionary.precompute_compress(level=_LEVEL)
            self._dictionary = dictionary
        return self._dictionary

    def _make_compressor(self) -> zstandard.ZstdCompressor:
        return zstandard.ZstdCompressor(level=_LEVEL, dict_data=self.load(), write_dict_id=False)

    def compress(self, data: bytes) -> bytes:
        """Return a frame without its first four bytes, which are the same in every frame."""
        try:
            compressor = self._compressors.pop()
        except IndexError:
            compressor = self._make_compressor()
        frame = compressor.compress(data)
        self._compressors.append(compressor)
        return frame[4:]

    def compress_many(self, items: list[bytes]) -> list[bytes]:
        """Return the frame of each item, in the form that `compress` returns.

        zstandard releases the GIL during each call. If another thread is busy, the caller waits up to 5 ms after each
        call before it has the GIL again. With a busy thread, 8,000 messages a second were compressed in a call each,
        and 60,000 in calls for 500 messages.
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
        """Return the content of a frame that `compress` wrote.

        Raises:
            WireFormatError: if the frame is damaged, or its content is longer than MAX_BYTES.
        """
        frame = _MAGIC + frame
        decompressor = self._take_decompressor()
        try:
            # zstandard allocates as much memory as the frame states, so the stated length is checked first.
            if not 0 <= zstandard.frame_content_size(frame) <= MAX_BYTES:
                raise WireFormatError("a compressed message does not state its length, or is too long")
            # By position, because that is faster: max_output_size (0 is none), read_across_frames, allow_extra_data.
            return decompressor.decompress(frame, 0, False, False)
        except (zstandard.ZstdError, MemoryError) as error:
            raise WireFormatError(f"a compressed message is damaged: {error}") from error
        finally:
            self._decompressors.append(decompressor)

    def decompress_many(self, frames: list[bytes]) -> list[bytes] | None:
        """Return the content of each frame, from one call. Return None if each frame needs its own call.

        Each frame needs its own call if there are few, or if one of them is damaged or large. `compress_many` says why
        one call is faster.
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
            return zstandard.ZstdDecompressor(dict_data=self.load())
