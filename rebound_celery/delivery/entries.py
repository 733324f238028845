"""Makes the schedule's entries of deliveries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..message import codec
from ..message.encryption import KeyRing
from ..schedule.port import Entry
from .delivery import Delivery

#: How many messages are compressed in one call.
_SEALED_AT_ONCE = 500


def entries_of(
    deliveries: Sequence[Delivery], packed: list[bytes] | None, lanes: Sequence[str], keys: KeyRing
) -> Iterator[Entry]:
    """The entry of each delivery, in its lane, encrypted if there are keys.

    They are sealed many at a time, and asked for while Redis works on those before.
    """
    for start in range(0, len(deliveries), _SEALED_AT_ONCE):
        some = deliveries[start : start + _SEALED_AT_ONCE]
        if packed is None:
            forms = codec.seal_many([delivery.pack() for delivery in some])
        else:
            forms = codec.seal_many(packed[start : start + _SEALED_AT_ONCE])
        for delivery, stored, lane in zip(
            some, keys.seal_many(forms), lanes[start : start + _SEALED_AT_ONCE], strict=True
        ):
            yield Entry(delivery.task_id, delivery.due_ms, stored, lane, delivery.priority)
