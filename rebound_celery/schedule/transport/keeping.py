"""Publishing that replaces nothing: an id that is stored already is kept, and the publisher hears of it."""

from __future__ import annotations

from typing import Any

from ...errors import AlreadyStoredError
from ..store.store import Store
from ..store.values import Entry

#: A header with which a task is published so. It is not stored, for a retry of the task has to replace it.
KEEP_HEADER = "rebound-keep"


def split(message: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The message without that header, and whether it was there. The message itself stays as it is: it may be published
    again."""
    headers = message.get("headers")
    if not isinstance(headers, dict) or KEEP_HEADER not in headers:
        return message, False
    rest = {name: value for name, value in headers.items() if name != KEEP_HEADER}
    return {**message, "headers": rest}, bool(headers[KEEP_HEADER])


def store_new(store: Store, entry: Entry) -> None:
    """Store a message, unless another one has its id.

    Raises:
        AlreadyStoredError: if there is one, waiting or in a worker's hands.
    """
    if store.enqueue([entry], keep=True):
        return
    there = store.get(entry.id)
    # The same message is this one: the answer to an earlier try to store it was lost.
    if there is not None and there.stored != entry.stored:
        raise AlreadyStoredError(entry.id, store.queue)
