"""Outcomes as they are stored, until another job settles what ended after its own, and as failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..destinations import Delivered, Failed, Held, Outcome, Rejected, Unavailable, exception_of
from ..errors import WireFormatError
from ..policy import Failure

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
    kind, values = _KINDS[wire[0]], wire[1:]
    names = list(kind.__dataclass_fields__)  # of our own class
    try:
        # A value of another type would fail where the outcome is settled, together with all others of its job.
        return msgspec.convert(dict(zip(names[: len(values)], values, strict=True)), kind)
    except ValueError:
        raise WireFormatError("a stored delivery is damaged: its outcome cannot be read") from None


def failure_of(outcome: Failed | Rejected) -> Failure:
    """The failure of an attempt, as its outcome tells of it."""
    seen = Failure.of(exception_of(outcome))
    if isinstance(outcome, Rejected):
        return Failure(seen.exception_class, seen.message, permanent=True)
    return Failure(seen.exception_class, seen.message, retry_after_s=outcome.retry_after_s)
