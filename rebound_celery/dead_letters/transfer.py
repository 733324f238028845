"""Writes dead letters as JSON and reads them again: `export` and `import`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import InvalidSettingError, ReboundError
from ..message import Message, Origin, PastAttempt, codec
from ..message.address import DEAD_SET, Address, parse_address
from ..message.headers import REPLAYS
from ..message.history import bounded
from ..policy import MAX_RETRIES_LIMIT, Failure, RetryPolicy
from ..policy.failure import MAX_ERROR_TEXT, MAX_STACKTRACE
from ..schedule.port import DeadEntry
from ..selection import bytes_to_dict
from .letter import Letter
from .walking import Access

_CHUNK = 100
_NO_REASON = "unknown"


def to_dict(letter: Letter) -> dict[str, Any]:
    """Return a letter as JSON has it: its view, its value, and what is needed to keep it again."""
    message = letter.message
    return {
        **letter.view.to_dict(),
        **bytes_to_dict("value", letter.value),
        "address": _wire(letter.view.destination),
        "dead_address": None if message is None else _wire(message.dead_destination),
        "policy": None if message is None else message.policy.to_wire(),
        "content_type": None if message is None else message.content_type,
    }


def _wire(address: Address | None) -> dict[str, Any] | None:
    return None if address is None else address.to_wire()


def import_letters(access: Access, letters: Iterable[Mapping[str, Any]]) -> int:
    """Keep letters in Redis; see `DeadLetters.import_`."""
    keys, count = access.settings.encryption_keys, 0
    chunk: list[DeadEntry] = []

    def keep(entries: Sequence[DeadEntry]) -> int:
        if entries:
            with access.schedule() as schedule, access.asking():
                schedule.keep_dead(entries)
        return len(entries)

    try:
        for number, fields in enumerate(letters, start=1):
            try:
                message, entry_id, died_ms = _read(fields)
                stored = keys.seal(codec.encode(message))
            except (ValueError, TypeError, LookupError, AttributeError, OverflowError, ReboundError) as error:
                text = error.allowed if isinstance(error, InvalidSettingError) else f"{type(error).__name__}: {error}"
                raise InvalidSettingError(
                    f"letter {number}", _name(fields), f"it is no exported letter: {text}"
                ) from error
            chunk.append(DeadEntry(entry_id, message.reason or _NO_REASON, stored, died_ms))
            if len(chunk) >= _CHUNK:
                full, chunk = chunk, []
                count += keep(full)
    finally:
        count += keep(chunk)
    return count


def _name(fields: object) -> object:
    return fields.get("id") if isinstance(fields, Mapping) else type(fields).__name__


def _read(fields: Mapping[str, Any]) -> tuple[Message, str, int | None]:
    """Return the message of an exported letter, the id under which Redis keeps it, and when it died."""
    if not isinstance(fields, Mapping):
        raise TypeError("it is a JSON object")
    if fields.get("problem") is not None:
        raise InvalidSettingError("problem", fields["problem"], "it could not be read when it was exported")
    message_id, entry_id = _text(fields, "message_id"), _text(fields, "id")
    if fields.get("partition") is not None:
        # The id of an entry ends with a part of its own behind the message's id.
        place = f"{_text(fields, 'kept_in')}@{int(fields['partition'])}@{int(fields['offset'])}"
        entry_id = f"{message_id}:{place}"
    origin = fields.get("origin")
    headers = [(_text(each, "name"), _bytes(each, "value")) for each in fields["headers"]]
    if replays := int(fields.get("replays") or 0):
        headers.append((REPLAYS, b"%d" % replays))
    policy, attempts = fields.get("policy"), fields.get("attempts")
    message = Message(
        id=message_id,
        value=_bytes(fields, "value"),
        destination=_address(fields.get("address")),
        dead_destination=_address(fields.get("dead_address")),
        attempt=min(max(int(attempts or 1), 1), 1 + MAX_RETRIES_LIMIT),
        policy=RetryPolicy() if policy is None else RetryPolicy.from_wire(policy),
        key=_bytes(fields, "key"),
        headers=tuple(headers),
        reason=fields.get("reason") or _NO_REASON,
        failure=_failure(fields),
        history=bounded(
            tuple(
                PastAttempt(int(each["attempt"]), int(each["failed_at_ms"]), str(each["error"]), str(each["by"]))
                for each in fields.get("history") or ()
            )
        ),
        group=fields.get("group"),
        origin=origin
        and Origin(
            _text(origin, "topic"), int(origin["partition"]), int(origin["offset"]), int(origin["timestamp_ms"])
        ),
        first_failed_at=fields.get("first_failed_at_ms"),
        content_type=fields.get("content_type"),
        source=fields.get("source"),
        client_id=fields.get("client_id"),
    )
    died_ms = fields.get("died_ms")
    # What is stored has to be what can be read again.
    codec.decode(message.id, codec.encode(message))
    return message, entry_id, None if died_ms is None else int(died_ms)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str) or not value:
        raise InvalidSettingError(name, value, f"{name} is a text")
    return value


def _bytes(fields: Mapping[str, Any], name: str) -> bytes | None:
    """The bytes of a field: of its base64, or of its text where that alone is there."""
    encoded = fields.get(f"{name}_base64")
    if encoded is not None:
        return base64.b64decode(encoded, validate=True)
    text = fields.get(name)
    return None if text is None else str(text).encode()


def _address(wire: object) -> Address:
    return DEAD_SET if wire is None else parse_address(wire)


def _failure(fields: Mapping[str, Any]) -> Failure | None:
    kind, text, stack = (fields.get(name) or "" for name in ("exception", "error", "stacktrace"))
    if not (kind or text or stack):
        return None
    return Failure(str(kind)[:MAX_ERROR_TEXT], str(text)[:MAX_ERROR_TEXT], str(stack)[-MAX_STACKTRACE:])
