"""The outcome of a delivery that ended after its job: it is stored with the delivery until another job settles it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..destinations import Delivered, Failed, Held, Outcome, Rejected, Unavailable
from ..errors import WireFormatError

_KINDS: Mapping[str, type[Outcome]] = {
    "delivered": Delivered,
    "failed": Failed,
    "rejected": Rejected,
    "unavailable": Unavailable,
    "held": Held,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def to_wire(outcome: Outcome) -> list[Any]:
    """The outcome as msgpack can hold it: its kind, and its fields in their order."""
    fields = type(outcome).__dataclass_fields__
    return [_NAMES[type(outcome)], *(getattr(outcome, name) for name in fields)]  # of our own class


def from_wire(wire: object) -> Outcome:
    """Read what `to_wire` wrote.

    Raises:
        WireFormatError: if it is damaged.
    """
    if not isinstance(wire, list) or not wire or not isinstance(wire[0], str) or wire[0] not in _KINDS:
        raise WireFormatError("a stored delivery is damaged: its outcome cannot be read")
    try:
        return _KINDS[wire[0]](*wire[1:])
    except TypeError:
        raise WireFormatError("a stored delivery is damaged: its outcome cannot be read") from None
