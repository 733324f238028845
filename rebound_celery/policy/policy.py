"""The retry policy: the number of retries of a message, and the delay before each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from ..caching import cached
from ..errors import InvalidSettingError, UnknownVersionError

MAX_RETRIES_LIMIT = 100
BASE_DELAY_MIN_S = 1
BASE_DELAY_MAX_S = 3600

#: No delay is longer than this. Doubling 3600 s a hundred times would leave the range of dates.
MAX_DELAY_S = 10 * 365 * 86_400

DEFAULT_MAX_RETRIES = 3
DEFAULT_BASE_DELAY_S = 5

EXPONENTIAL: Final = "exponential"

_FIELDS = frozenset({"kind", "max_retries", "base_delay"})


class RetryPolicy(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """The number of retries of a message, and the delay before each.

    Retry n follows failed attempt n and waits `base_delay * 2**(n-1)` seconds. `max_retries=3, base_delay=5` waits
    5, 10 and 20 s. The handler is called at most `1 + max_retries` times; then the message becomes a dead letter.

    Args:
        max_retries: a whole number from 0 to 100. With 0, the first failure makes a dead letter.
        base_delay: the delay before the first retry in seconds, from 1 to 3600; fractions are allowed. No delay is
            longer than ten years.
        unknown: options that a later version wrote, packed. They have no effect here and are written back.

    Raises:
        InvalidSettingError: for any other value.
    """

    max_retries: int = DEFAULT_MAX_RETRIES
    base_delay: float = DEFAULT_BASE_DELAY_S
    # Packed as msgpack, so that the policy can be hashed even if an option is a list or a mapping.
    unknown: bytes = b""

    def __post_init__(self) -> None:
        retries, delay = self.max_retries, self.base_delay
        if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries <= MAX_RETRIES_LIMIT:
            raise InvalidSettingError(
                "max_retries", retries, f"it must be a whole number from 0 to {MAX_RETRIES_LIMIT}"
            )
        is_number = isinstance(delay, int | float) and not isinstance(delay, bool)
        if not is_number or not BASE_DELAY_MIN_S <= delay <= BASE_DELAY_MAX_S:
            raise InvalidSettingError(
                "base_delay",
                delay,
                f"it must be a number of seconds from {BASE_DELAY_MIN_S} to {BASE_DELAY_MAX_S}",
            )

    @property
    def attempts(self) -> int:
        """The largest number of attempts of a message."""
        return 1 + self.max_retries

    def delay_s(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt `attempt` (1 is the first)."""
        return float(min(self.base_delay * 2 ** (attempt - 1), MAX_DELAY_S))

    def to_wire(self) -> dict[str, Any]:
        """Return the policy as a mapping, with the options that a later version added."""
        delay = self.base_delay
        wire: dict[str, Any] = {
            "kind": EXPONENTIAL,
            "max_retries": self.max_retries,
            # A whole number is stored in one byte, a fraction in nine.
            "base_delay": int(delay) if delay == int(delay) else delay,
        }
        if self.unknown:
            wire |= msgspec.msgpack.decode(self.unknown)
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> RetryPolicy:
        """Read a mapping that `to_wire` wrote, in this version or another.

        Raises:
            UnknownVersionError: if this version does not have this kind of policy.
            ValueError: if it is not a policy.
        """
        if not isinstance(wire, Mapping):
            raise ValueError(f"a policy is a mapping, not {type(wire).__name__}")  # noqa: TRY004 - damage, not misuse
        kind = wire.get("kind")
        if not isinstance(kind, str):
            raise ValueError("a policy says its kind")  # noqa: TRY004 - damage, not misuse
        if kind != EXPONENTIAL:
            raise UnknownVersionError(f"a retry policy of the kind {kind[:50]!r}")
        unknown = {name: value for name, value in wire.items() if name not in _FIELDS}
        packed = msgspec.msgpack.encode(unknown) if unknown else b""
        retries: Any = wire.get("max_retries")
        delay: Any = wire.get("base_delay")
        return cls(retries, delay, packed)


#: Returns the same policy object for the same values; see `cached`.
policy_of = cached(RetryPolicy)
