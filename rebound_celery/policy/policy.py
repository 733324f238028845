"""The retry policy: the number of retries of a message, the delay before each, and the rules by error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import msgspec

from ..caching import cached
from ..errors import InvalidSettingError, UnknownVersionError
from .checks import MAX_DELAY_S, check_choice, check_count, check_seconds, compact, is_list
from .rules import ErrorRule

MAX_RETRIES_LIMIT = 100
BASE_DELAY_MIN_S = 1
BASE_DELAY_MAX_S = 3600

#: The longest delay of a first delivery, in seconds: a year.
MAX_FIRST_DELAY_S = 365 * 86_400

#: Quick retries keep a handler's thread busy. So they are few, and they come soon.
MAX_QUICK_RETRIES = 10
MAX_QUICK_DELAY_S = 1

DEFAULT_MAX_RETRIES = 3
DEFAULT_BASE_DELAY_S = 5

EXPONENTIAL: Final = "exponential"
LINEAR: Final = "linear"
CONSTANT: Final = "constant"
LIST: Final = "list"

Kind = Literal["exponential", "linear", "constant", "list"]
KINDS: Final = (EXPONENTIAL, LINEAR, CONSTANT, LIST)

NO_JITTER: Final = "none"
FULL_JITTER: Final = "full"
EQUAL_JITTER: Final = "equal"

Jitter = Literal["none", "full", "equal"]
JITTERS: Final = (NO_JITTER, FULL_JITTER, EQUAL_JITTER)

#: Stands for a number of retries that is not given: 3, or as many as a list has delays.
_NOT_GIVEN: Any = msgspec.UNSET

#: The options that are written only if they are set, with the value of each that is not.
_OPTIONAL: Final[Mapping[str, object]] = {
    "max_delay": None,
    "jitter": NO_JITTER,
    "budget": None,
    "quick_retries": 0,
    "quick_delay": 0,
    "first_delay": None,
}

#: The names of all options of a policy.
OPTIONS: Final = ("kind", "max_retries", "base_delay", "delays", *_OPTIONAL, "rules")


class RetryPolicy(msgspec.Struct, frozen=True, cache_hash=True, gc=False, repr_omit_defaults=True):
    """The number of retries of a message, the delay before each, and the rules by error.

    Retry n follows failed attempt n. `max_retries=3, base_delay=5` waits 5, 10 and 20 s. The handler is called at most
    `1 + max_retries` times; then the message becomes a dead letter. `celery rebound policy show` prints the delays.

    Args:
        max_retries: a whole number from 0 to 100. With 0, the first failure makes a dead letter. If it is not given, it
            is 3, or the number of `delays`.
        base_delay: the delay before the first retry in seconds, from 1 to 3600; fractions are allowed. No delay is
            longer than ten years.
        kind: how the delays grow. "exponential": `base_delay * 2**(n-1)`. "linear": `base_delay * n`. "constant":
            `base_delay`. "list": the numbers in `delays`.
        delays: the delay before each retry in seconds, from 0. More retries than delays repeat the last one.
        max_delay: the longest delay in seconds, whatever asks for it: the policy, a rule, a handler or a destination.
        jitter: "full" takes a random delay from 0 to the policy's delay, "equal" one from half of it to all of it.
        budget: seconds since the first failure after which no retry is due. What would be due later becomes a dead
            letter at once.
        quick_retries: how often a consumer calls the handler again at once, before the first retry is scheduled; 0 to
            10. They are not counted as attempts.
        quick_delay: the seconds before each quick retry, from 0 to 1.
        first_delay: the seconds before the first delivery, from 0 to a year; None delivers at once.
        rules: what to do about exceptions of certain classes; see `ErrorRule`.
        unknown: options that a later version wrote, packed. They have no effect here and are written back.

    Raises:
        InvalidSettingError: for any other value.
    """

    max_retries: int = _NOT_GIVEN
    base_delay: float = DEFAULT_BASE_DELAY_S
    kind: Kind = EXPONENTIAL
    delays: Iterable[float] = ()
    max_delay: float | None = None
    jitter: Jitter = NO_JITTER
    budget: float | None = None
    quick_retries: int = 0
    quick_delay: float = 0
    first_delay: float | None = None
    rules: Iterable[ErrorRule] = ()
    # Packed as msgpack, so that the policy can be hashed even if an option is a list or a mapping.
    unknown: bytes = b""

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, KINDS)
        self._check_delays()
        check_count("max_retries", self.max_retries, MAX_RETRIES_LIMIT)
        self._check_base_delay()
        check_choice("jitter", self.jitter, JITTERS)
        check_count("quick_retries", self.quick_retries, MAX_QUICK_RETRIES)
        check_seconds("quick_delay", self.quick_delay, 0, MAX_QUICK_DELAY_S)
        if self.first_delay is not None:
            check_seconds("first_delay", self.first_delay, 0, MAX_FIRST_DELAY_S)
        self._check_limits()
        if not is_list(self.rules) or not all(isinstance(rule, ErrorRule) for rule in self.rules):
            raise InvalidSettingError("rules", self.rules, "give a list of ErrorRule")
        _set(self, "rules", tuple(self.rules))
        self._check_delays_of_rules()

    def _check_delays(self) -> None:
        if not is_list(self.delays):
            raise InvalidSettingError("delays", self.delays, "give a list of numbers of seconds")
        delays = tuple(self.delays)
        if not delays and self.delays != () and self.kind != LIST:
            # Only the default is empty: whoever gives an empty list may mean no retries at all.
            raise InvalidSettingError(
                "delays", list(delays), "give a number of seconds for each retry; for no retries, max_retries is 0"
            )
        for delay in delays:
            check_seconds("delays", delay, 0, MAX_DELAY_S)
        if len(delays) > MAX_RETRIES_LIMIT:
            raise InvalidSettingError("delays", delays, f"give at most {MAX_RETRIES_LIMIT}, one for each retry")
        _set(self, "delays", delays)
        if delays and self.kind == EXPONENTIAL:
            _set(self, "kind", LIST)
        if (self.kind == LIST) != bool(delays):
            raise InvalidSettingError("delays", list(delays), f"the kind {LIST!r} has delays, and no other kind has")
        if self.max_retries is _NOT_GIVEN:
            _set(self, "max_retries", len(delays) or DEFAULT_MAX_RETRIES)

    def _check_base_delay(self) -> None:
        delay = self.base_delay
        check_seconds("base_delay", delay, BASE_DELAY_MIN_S, BASE_DELAY_MAX_S)
        if self.kind == LIST and delay != DEFAULT_BASE_DELAY_S:
            raise InvalidSettingError("base_delay", delay, "a list of delays has no base_delay")

    def _check_limits(self) -> None:
        if self.max_delay is not None:
            check_seconds("max_delay", self.max_delay, 0, MAX_DELAY_S)
            if self.kind != LIST and self.max_delay < self.base_delay:
                raise InvalidSettingError("max_delay", self.max_delay, f"base_delay is longer: {self.base_delay:g} s")
        if self.budget is not None:
            check_seconds("budget", self.budget, 0, MAX_DELAY_S)
            first = self.delay_s(1)
            if self.max_retries and self.budget < first:
                raise InvalidSettingError(
                    "budget", self.budget, f"it is shorter than the delay before the first retry, {first:g} s"
                )

    def _check_delays_of_rules(self) -> None:
        if self.budget is None or not self.max_retries:
            return
        for index, rule in enumerate(self.rules):
            if rule.delay is not None and min(rule.delay, self.longest_delay_s) > self.budget:
                raise InvalidSettingError(
                    f"rules[{index}].delay",
                    rule.delay,
                    f"it is longer than the budget of {self.budget:g} s, so that no retry would be due in time: "
                    "shorten it, or give the rule then='dead-letter'",
                )

    @property
    def attempts(self) -> int:
        """The largest number of attempts of a message."""
        return 1 + self.max_retries

    @property
    def longest_delay_s(self) -> float:
        """The seconds that no delay exceeds."""
        return MAX_DELAY_S if self.max_delay is None else self.max_delay

    def delay_s(self, attempt: int) -> float:
        """Return the seconds to wait after failed attempt `attempt` (1 is the first), without jitter."""
        kind = self.kind
        if kind == EXPONENTIAL:
            delay = self.base_delay * 2 ** (attempt - 1)
        elif kind == LINEAR:
            delay = self.base_delay * attempt
        elif kind == CONSTANT:
            delay = self.base_delay
        else:
            delays: tuple[float, ...] = self.delays  # type: ignore[assignment]  # __post_init__ has made it
            delay = delays[min(attempt, len(delays)) - 1]
        return float(min(delay, MAX_DELAY_S if self.max_delay is None else self.max_delay))

    def rule_for(self, names: frozenset[str]) -> ErrorRule | None:
        """Return the first rule for an error; None if there is none.

        Args:
            names: the full names of the error's class, its base classes, and the same of its causes.
        """
        rules: tuple[ErrorRule, ...] = self.rules  # type: ignore[assignment]  # __post_init__ has made it
        for rule in rules:
            for name in rule.names:
                if name in names:
                    return rule
        return None

    def with_limits(self, max_retries: int | None, base_delay: float | None) -> RetryPolicy:
        """Return this policy with another number of retries or another base delay. None keeps what it has.

        Raises:
            InvalidSettingError: for a value that this policy cannot have.
        """
        if (max_retries is None or (type(max_retries) is int and max_retries == self.max_retries)) and (
            base_delay is None or (type(base_delay) is not bool and base_delay == self.base_delay and not self.delays)
        ):
            return self  # almost always
        return _with_limits(self, max_retries, base_delay)

    def to_wire(self) -> dict[str, Any]:
        """Return the policy as a mapping without the options that are not set."""
        wire: dict[str, Any] = {"kind": self.kind, "max_retries": self.max_retries}
        if self.kind == LIST:
            wire["delays"] = [compact(delay) for delay in self.delays]
        else:
            wire["base_delay"] = compact(self.base_delay)
        for name, usual in _OPTIONAL.items():
            value: Any = getattr(self, name)
            if value != usual:
                wire[name] = compact(value) if isinstance(value, float) else value
        if self.rules:
            wire["rules"] = [rule.to_wire() for rule in self.rules]
        if self.unknown:
            wire |= msgspec.msgpack.decode(self.unknown)
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> RetryPolicy:
        """Read a mapping that `to_wire` wrote, in this version or another.

        Raises:
            UnknownVersionError: if this version does not have this kind of policy, of jitter or of rule.
            ValueError: if it is not a policy.
        """
        if not isinstance(wire, Mapping):
            raise ValueError(f"a policy is a mapping, not {type(wire).__name__}")  # noqa: TRY004 - damage, not misuse
        kind, jitter = wire.get("kind"), wire.get("jitter")
        if not isinstance(kind, str):
            raise ValueError("a policy says its kind")  # noqa: TRY004 - damage, not misuse
        if kind not in KINDS:
            raise UnknownVersionError(f"a retry policy of the kind {kind[:50]!r}")
        if isinstance(jitter, str) and jitter not in JITTERS:
            raise UnknownVersionError(f"a retry policy with the jitter {jitter[:50]!r}")
        if "max_retries" not in wire or ("delays" if kind == LIST else "base_delay") not in wire:
            raise ValueError("a policy says its number of retries and its delays")
        options: dict[str, Any] = {name: wire[name] for name in OPTIONS if name in wire}
        if "rules" in options:
            if not isinstance(options["rules"], list | tuple):
                raise ValueError("the rules of a policy are a list")
            options["rules"] = tuple(ErrorRule.from_wire(rule) for rule in options["rules"])
        unknown = {name: value for name, value in wire.items() if name not in OPTIONS}
        return cls(**options, unknown=msgspec.msgpack.encode(unknown) if unknown else b"")


_set = msgspec.structs.force_setattr

#: Returns the same policy object for the same number of retries and base delay; see `cached`.
policy_of = cached(RetryPolicy)


@cached
def _with_limits(policy: RetryPolicy, max_retries: int | None, base_delay: float | None) -> RetryPolicy:
    if base_delay is not None and policy.kind == LIST:
        raise InvalidSettingError("base_delay", base_delay, "the policy is a list of delays, which has no base_delay")
    changes: dict[str, Any] = {"max_retries": max_retries, "base_delay": base_delay}
    return msgspec.structs.replace(policy, **{name: value for name, value in changes.items() if value is not None})
