"""Which compressions of Kafka this Python can read, and what to do about records that it cannot."""

from __future__ import annotations

from kafka import codec
from kafka.errors import UnsupportedCodecError

#: The number that a batch of records gives its compression, and the name.
NAMES = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}

INSTALL = 'pip install "rebound-celery[codecs]"'


def missing() -> list[str]:
    """The names of the codecs for which no package is installed."""
    return [name for name in NAMES.values() if not getattr(codec, f"has_{name}")()]


def advice(error: Exception, number: int) -> str:
    """What to do about a batch that raised `error` and whose compression is `number`."""
    if isinstance(error, UnsupportedCodecError) and number in NAMES:
        return f"install the codec {NAMES[number]} and start the consumer anew: {INSTALL}"
    if isinstance(error, MemoryError):
        return "give the process more memory"
    return "the batch is damaged; to go on behind it, set on_unreadable to 'dead-letter' or 'skip'"
