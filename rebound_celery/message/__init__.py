"""The message: a value, its destination, its attempt and its history, from one attempt to the next."""

from __future__ import annotations

from .message import (
    MAX_ERROR_TEXT,
    MAX_STACKTRACE,
    WIRE_VERSION,
    Failure,
    Headers,
    Message,
    Origin,
    Record,
    dead_letter_topic,
    derive_id,
    new_id,
    normalize_headers,
)

__all__ = [
    "MAX_ERROR_TEXT",
    "MAX_STACKTRACE",
    "WIRE_VERSION",
    "Failure",
    "Headers",
    "Message",
    "Origin",
    "Record",
    "dead_letter_topic",
    "derive_id",
    "new_id",
    "normalize_headers",
]
