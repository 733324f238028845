"""Tells what to do about records that cannot be read."""

from __future__ import annotations

from kafka.errors import UnsupportedCodecError

from ..kafka_common import CODECS, INSTALL_CODECS


def advice(error: Exception, number: int) -> str:
    """Return what to do about a batch that raised `error` and whose codec is `number`."""
    if isinstance(error, UnsupportedCodecError) and number in CODECS:
        return f"install the codec {CODECS[number]} and restart the consumer: {INSTALL_CODECS}"
    if isinstance(error, MemoryError):
        return "give the process more memory"
    return "the batch is damaged; to go on after it, set on_unreadable to 'dead-letter' or 'skip'"
