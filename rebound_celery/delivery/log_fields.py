"""How log lines name a message: in their text, and in the fields of `extra`."""

from __future__ import annotations

from ..message import Message


def named(message: Message) -> str:
    """A message with its id, origin, attempt and destination, for the text of a log line."""
    return f"message {message.id} ({message})"


def log_fields(message: Message) -> dict[str, object]:
    """What `extra` of a log line says of a message: its id, origin, attempt, destination, and reason if it is dead."""
    return {
        "message_id": message.id,
        "origin": None if message.origin is None else str(message.origin),
        "attempt": message.attempt,
        "destination": str(message.target),
        "reason": message.reason,
    }
