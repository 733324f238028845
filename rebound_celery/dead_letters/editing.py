"""Sends a changed dead letter again, and leaves the letter as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from ..errors import InvalidSettingError
from ..message import derive_id
from ..message.address import Address, parse_address
from ..message.headers import EDITED, REPLAYS, replayed_headers
from ..message.ids import task_ids_of
from ..values import encode_headers, encode_key, encode_value
from .again import prepare
from .letter import Letter
from .replay_values import Replaced, Store
from .walking import Access

#: Stands for what is not changed, because None is a value.
UNCHANGED: Any = object()

#: Larger than any number of replays, so that a changed letter is never parked.
_NEVER = 2**63


def entries_of(identity: str) -> Iterator[str]:
    """Return all ids that a letter in Redis may have under an id: its own, or that of its message."""
    yield identity
    yield from task_ids_of(identity)[::-1]


def edit(
    access: Access,
    store: Store,
    letter: Letter,
    *,
    value: object = UNCHANGED,
    key: object = UNCHANGED,
    headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = UNCHANGED,
    target: str | Mapping[str, Any] | Address | None = None,
) -> str:
    """Send a changed letter; see `DeadLetters.edit`."""
    if not letter.copied and value is not UNCHANGED:
        letter = replace(letter, copied=True)
    address = None if target is None else parse_address(target, field="target")
    message = prepare(letter, access.settings, address, _NEVER).message
    changed = []
    if value is not UNCHANGED:
        changed.append("value")
        message = replace(message, value=None if value is None else encode_value(value)[0])
    if key is not UNCHANGED:
        changed.append("key")
        message = replace(message, key=None if key is None else encode_key(key))
    if headers is not UNCHANGED:
        changed.append("headers")
        given = [header for header in encode_headers(headers or ()) if header[0] not in (REPLAYS, EDITED)]
        message = replace(message, headers=tuple(given))
    if address is not None:
        changed.append("target")
    if not changed:
        raise InvalidSettingError("value", None, "nothing is changed: give a value, a key, headers or a target")
    place = letter.view.id if letter.view.partition is not None else f"redis:{letter.view.id}"
    note = f"{','.join(changed)} of {place}"
    message = replace(message, headers=replayed_headers(message.headers, letter.view.replays + 1, note))
    content = repr((message.value, message.key, message.headers, message.target.to_wire()))
    digest = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()
    message = replace(message, id=derive_id("edited", place, digest))
    # The letter stays where it is, so that there is nothing whose place it takes.
    replaced = Replaced(message, message.task_id, None, "edited", 0, "replayed")
    with access.schedule() as schedule, access.asking():
        store(schedule, [replaced], again=True)
    return message.task_id
