"""Finds the codecs of Kafka that are not installed, and gives advice about records that cannot be read."""

from __future__ import annotations

from kafka import codec
from kafka.errors import UnsupportedCodecError

#: The number of a codec in a batch of records -> the codec's name.
NAMES = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}

INSTALL = 'pip install "rebound-celery[codecs]"'


def missing() -> list[str]:
    """Return the names of the codecs for which no package is installed."""
    return [name for name in NAMES.values() if not getattr(codec, f"has_{name}")()]


def advice(error: Exception, number: int) -> str:
    """Return advice about a batch that could not be read.

    Args:
        error: the exception that reading it raised.
        number: the number of the batch's codec; 0 means none.
    """
    if isinstance(error, UnsupportedCodecError) and number in NAMES:
        return f"install the codec {NAMES[number]} and restart the consumer: {INSTALL}"
    if isinstance(error, MemoryError):
        return "give the process more memory"
    return "the batch is damaged; to go on after it, set on_unreadable to 'dead-letter' or 'skip'"
