"""What the settings say of limits: when a lane's circuit breaker opens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from .errors import InvalidSettingError

_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOptions:
    """When the circuit breaker of a destination opens, and how it closes; for the setting `rebound_breaker`.

    While it is open, nothing is delivered to the destination, and no attempt is used up.

    Attributes:
        share: it opens if at least this share of the deliveries in the window failed; above 0, at most 1.
        count: and if at least so many failed; 1 to 100,000.
        window: the window, in seconds; 1 to 3600.
        probe: seconds until one message is delivered as a probe; 0.1 to 3600. The time doubles after each probe that
            fails.
        max_probe: the longest time between two probes, in seconds; from `probe` to 86,400.
        drain_rate: how many messages a second are delivered at first after a probe that succeeded; above 0, at most
            1,000,000. The rate doubles with each window. None means no limit.

    Raises:
        InvalidSettingError: naming the field, its value, and what is allowed.
    """

    share: float = 0.5
    count: int = 20
    window: float = 30.0
    probe: float = 5.0
    max_probe: float = 300.0
    drain_rate: float | None = 100.0

    def __post_init__(self) -> None:
        _check("share", self.share, 0, 1, "a number above 0, at most 1", above=True)
        if type(self.count) is not int:
            raise InvalidSettingError("rebound_breaker.count", self.count, "it is a whole number from 1 to 100,000")
        _check("count", self.count, 1, 100_000, "a whole number from 1 to 100,000")
        _check("window", self.window, 1, 3600, "a number of seconds from 1 to 3600")
        _check("probe", self.probe, 0.1, 3600, "a number of seconds from 0.1 to 3600")
        _check("max_probe", self.max_probe, self.probe, 86_400, "a number of seconds from `probe` to 86,400")
        if self.drain_rate is not None:
            _check("drain_rate", self.drain_rate, 0, 1e6, "messages a second, above 0, at most 1,000,000", above=True)

    @classmethod
    def read(cls, name: str, value: object) -> BreakerOptions | None:
        """Read the setting: options, a mapping of them, or whether it is on. None means that it is off.

        A text, as the environment has it, is "on", "off", or options such as "share=0.3,count=50".

        Raises:
            InvalidSettingError: naming the setting or the option, its value, and what is allowed.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, bool):
            return cls() if value else None
        if isinstance(value, str):
            text = value.strip().lower()
            if text in _ON or text in _OFF:
                return cls() if text in _ON else None
            value = _options_of(text)
        if not isinstance(value, Mapping):
            raise InvalidSettingError(name, value, "it is True, False, BreakerOptions, or a mapping of its options")
        names = [option.name for option in fields(cls)]
        for option in value:
            if option not in names:
                raise InvalidSettingError(
                    f"rebound_breaker.{option}", value[option], f"the options are {', '.join(names)}"
                )
        return cls(**value)


def _options_of(text: str) -> dict[str, object] | str:
    """The options that a text has; the text itself if it has none."""
    options: dict[str, object] = {}
    for part in text.split(","):
        name, equals, number = (each.strip() for each in part.partition("="))
        if not equals:
            return text
        if number == "none":
            options[name] = None
            continue
        try:
            options[name] = int(number) if number.isdecimal() else float(number)
        except ValueError:
            raise InvalidSettingError(f"rebound_breaker.{name}", number, "it is a number") from None
    return options


def _check(name: str, value: object, least: float, most: float, rule: str, *, above: bool = False) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not least <= value <= most or (above and value == least):  # type: ignore[operator]
        raise InvalidSettingError(f"rebound_breaker.{name}", value, f"it is {rule}")
