"""The consumed record, and the message that carries its value from one attempt to the next."""

from __future__ import annotations

from .history import PastAttempt
from .ids import derive_id, message_id_of, new_id
from .message import Message, dead_destination_of, dead_letter_topic
from .record import Headers, Origin, Record, normalize_headers

__all__ = [
    "Headers",
    "Message",
    "Origin",
    "PastAttempt",
    "Record",
    "dead_destination_of",
    "dead_letter_topic",
    "derive_id",
    "message_id_of",
    "new_id",
    "normalize_headers",
]
