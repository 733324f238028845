"""Tells which codecs of Kafka are installed, and what to do about records that cannot be read."""

from __future__ import annotations

from kafka import codec
from kafka.errors import UnsupportedCodecError

#: The numbers of the codecs in a batch of records, and their names.
NAMES = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}

INSTALL = 'pip install "kafka-python[lz4,snappy,zstd]"'


def missing() -> list[str]:
    """Return the names of the codecs for which no package is installed."""
    return [name for name in NAMES.values() if not getattr(codec, f"has_{name}")()]


def advice(error: Exception, number: int) -> str:
    """Return what to do about a batch that raised `error` and whose codec is `number`."""
    if isinstance(error, UnsupportedCodecError) and number in NAMES:
        return f"install the codec {NAMES[number]} and restart the consumer: {INSTALL}"
    if isinstance(error, MemoryError):
        return "give the process more memory"
    return "the batch is damaged; to go on after it, set on_unreadable to 'dead-letter' or 'skip'"
