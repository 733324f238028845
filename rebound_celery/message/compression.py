"""Zstandard with a dictionary, for many small messages."""

from __future__ import annotations

from collections import deque
from importlib import resources

import zstandard

from ..errors import WireFormatError

#: No message becomes longer than this when it is decompressed. Redis holds no longer values either.
MAX_BYTES = 512 * 1024 * 1024

#: Every frame begins with these bytes, so they are not stored.
_MAGIC = zstandard.FRAME_HEADER

#: Higher levels gain less than 3 bytes a message; from 5 on they take twice the time.
_LEVEL = 1


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

    def compress(self, data: bytes) -> bytes:
        """Return a frame without its first four bytes."""
        try:
            compressor = self._compressors.pop()
        except IndexError:
            compressor = zstandard.ZstdCompressor(level=_LEVEL, dict_data=self._load(), write_dict_id=False)
        frame = compressor.compress(data)
        self._compressors.append(compressor)
        return frame[4:]

    def decompress(self, frame: bytes) -> bytes:
        """Read what `compress` wrote.

        Raises:
            WireFormatError: if it is damaged, or longer than MAX_BYTES.
        """
        frame = _MAGIC + frame
        try:
            decompressor = self._decompressors.pop()
        except IndexError:
            decompressor = zstandard.ZstdDecompressor(dict_data=self._load())
        try:
            # Without its length in the frame, zstandard would ask for the memory of the longest.
            if not 0 <= zstandard.frame_content_size(frame) <= MAX_BYTES:
                raise WireFormatError("a compressed message does not say how long it is, or is too long")
            return decompressor.decompress(frame, allow_extra_data=False)
        except (zstandard.ZstdError, MemoryError) as error:
            raise WireFormatError(f"a compressed message is damaged: {error}") from error
        finally:
            self._decompressors.append(decompressor)
