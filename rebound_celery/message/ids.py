"""Ids of messages: derived from the position of a record, or random."""

from __future__ import annotations

import hashlib
import os
import uuid

from ..policy.policy import MAX_RETRIES_LIMIT

#: The namespace of the ids that rebound derives: uuid.uuid5(NAMESPACE_DNS, "rebound-celery").
_ID_NAMESPACE = uuid.UUID("9c3d7f54-72f4-5d46-a8db-154ef957a565")

#: How many ids are made at once. Random bytes for many ids cost little more than random bytes for one.
_BATCH = 256

#: Ids that no message has yet. `pop` is atomic, so threads may share the list.
_prepared: list[str] = []
# A child process would otherwise give out the same ids as its parent.
os.register_at_fork(after_in_child=_prepared.clear)


def derive_id(*parts: object) -> str:
    """Return a stable id: the same parts give the same id in every process."""
    # This is uuid.uuid5 without its UUID objects: it runs for every consumed record.
    name = "\0".join(map(str, parts)).encode()
    return _uuid(hashlib.sha1(_ID_NAMESPACE.bytes + name, usedforsecurity=False).hexdigest(), "5")


def derive_record_id(group: str, topic: str, partition: int, offset: int, timestamp: int) -> str:
    """Return the same id as `derive_id` for these parts, but faster."""
    name = f"{group}\0{topic}\0{partition}\0{offset}\0{timestamp}".encode()
    return _uuid(hashlib.sha1(_ID_NAMESPACE.bytes + name, usedforsecurity=False).hexdigest(), "5")


def message_id_of(task_id: str) -> str:
    """Return the id of the message that a Celery task delivers; see `Message.task_id`."""
    return task_id.rpartition(":")[0] or task_id


def task_ids_of(message_id: str) -> list[str]:
    """Return the ids of all Celery tasks that may deliver this message; see `Message.task_id`."""
    attempts = map(str, range(1, MAX_RETRIES_LIMIT + 2))
    return [f"{message_id}:{attempt}" for attempt in (*attempts, "dead")]


def new_id() -> str:
    """Return an id that no other message has: a random UUID."""
    try:
        return _prepared.pop()
    except IndexError:
        digits = os.urandom(16 * _BATCH).hex()
        ids = [_uuid(digits[start : start + 32], "4") for start in range(0, 32 * _BATCH, 32)]
        last = ids.pop()
        _prepared.extend(ids)
        return last


_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def _uuid(digits: str, version: str) -> str:
    variant = _VARIANTS[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-{version}{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"
