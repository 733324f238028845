"""What settings and callers say of limits: circuit breakers, delivery rates, and unique messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase, translate
from typing import NamedTuple

from .errors import InvalidSettingError
from .urls.patterns import read_url_pattern

#: What is done with a message that waits already; see `UniqueRule`.
UNIQUE_WAYS = ("replace", "keep", "extend")

#: The longest unique key, in characters.
_LONGEST_KEY = 1000

#: The longest `max_wait`, in seconds: a year.
_LONGEST_WAIT_S = 365 * 86_400

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
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or (above and value == least):  # type: ignore[operator]
        raise InvalidSettingError(f"rebound_breaker.{name}", value, f"it is {rule}")


#: A pattern of destinations: its scheme, and what follows.
_DESTINATION = re.compile(r"(kafka|(?i:https?))://(\S+)")
#: A URL's scheme and host, and its path.
_URL = re.compile(r"(https?://[^/]+)(/.*)?")

_RATE_RULE = "messages a second, above 0, at most 1,000,000; None for no limit"


@dataclass(frozen=True, slots=True)
class RateRule:
    """The delivery rate of some messages; `rebound_rates` maps the text of each rule to its rate.

    Attributes:
        text: as it was given: a pattern of destinations, and after ` key=` one of keys.
        destination: the pattern of destinations, such as `kafka://orders*` or `https://api.example.com/slow/*`; one of
            URLs in their normal form, with a path.
        key: the pattern of keys; None for every message, with a key or without.
        rate: messages a second of all workers together; None for no limit.
        regex: what matches the destinations that the pattern fits.
    """

    text: str
    destination: str
    key: str | None
    rate: float | None
    regex: re.Pattern[str]

    @classmethod
    def of(cls, name: str, text: object, rate: object) -> RateRule:
        """Read a rule.

        Raises:
            InvalidSettingError: naming the setting with the rule, its value, and what is allowed.
        """
        if not isinstance(text, str):
            raise InvalidSettingError(name, text, "a pattern of destinations is a text")
        destination, separator, key = text.strip().partition(" key=")
        if not _DESTINATION.fullmatch(destination) or (separator and not key):
            rule = "a rule is kafka://topic, http://host/path or https://host/path, with * for any text"
            raise InvalidSettingError(name, text, f"{rule}; and for some keys only, a space and key=pattern")
        if destination.startswith("kafka://"):
            regex = re.compile(translate(_with_plain_brackets(destination)))
        else:
            if ("?" in destination or "#" in destination) and "@" not in destination:
                path = re.split(r"[?#]", destination)[0]
                rule = f"a rule is for a path with all of its queries: give {path!r}"
                raise InvalidSettingError(name, text, rule)
            try:
                destination, _, regex = read_url_pattern(destination)
            except ValueError as error:
                raise InvalidSettingError(name, text, str(error)) from None
        is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
        if rate is not None and (not is_number or not 0 < rate <= 1e6):  # type: ignore[operator]
            raise InvalidSettingError(f"{name}[{text!r}]", rate, f"it is {_RATE_RULE}")
        return cls(text.strip(), destination, key if separator else None, rate, regex)  # type: ignore[arg-type]

    @property
    def part(self) -> str:
        """What tells its messages from the others of their lane; the empty text if they are all of the lane's."""
        url = _URL.fullmatch(self.destination)
        path = url[2] if url and url[2] != "/*" else ""
        return " ".join(filter(None, (path, "" if self.key is None else f"key={self.key}")))

    def is_for(self, destination: str) -> bool:
        """Whether it is for a destination: `kafka://topic`, or a URL without user, query and usual port."""
        return self.regex.match(destination) is not None

    def takes(self, key: bytes | None) -> bool:
        """Whether it takes a message with this key. A key that is no UTF-8 has U+FFFD for each wrong byte."""
        return self.key is None or (key is not None and _fits(key.decode("utf-8", "replace"), self.key))


def _fits(text: str, pattern: str) -> bool:
    return fnmatchcase(text, _with_plain_brackets(pattern))


def _with_plain_brackets(pattern: str) -> str:
    """A pattern for `fnmatch` in which a bracket is a bracket."""
    return pattern.replace("[", "[[]")


def read_rates(name: str, value: object) -> tuple[RateRule, ...]:
    """Read the setting `rebound_rates`: a mapping of rules to rates. The first rule that fits a message counts.

    Raises:
        InvalidSettingError: naming the setting, the rule, and what is allowed.
    """
    if not isinstance(value, Mapping):
        raise InvalidSettingError(name, value, f"it is a mapping of patterns to {_RATE_RULE}")
    rules: dict[tuple[re.Pattern[str], str | None], RateRule] = {}
    for text, rate in value.items():
        rule = RateRule.of(name, text, rate)
        first = rules.setdefault((rule.regex, rule.key), rule)
        if first is not rule:
            raise InvalidSettingError(
                name, text, f"it is for the same messages as {first.text!r}: leave out one of them"
            )
    return tuple(rules.values())


class UniqueRule(NamedTuple):
    """That only one message with a key may wait; `RetryRequest` describes the three arguments.

    Attributes:
        key: the key.
        how: "replace", "keep" or "extend".
        max_wait_ms: with "extend", the latest due time after the first message was stored; None for no limit.
    """

    key: str
    how: str
    max_wait_ms: int | None

    @classmethod
    def of(cls, key: str | None, how: object, max_wait: object) -> UniqueRule | None:
        """Make the rule of the arguments; None if there is no key.

        Raises:
            InvalidSettingError: naming the argument, its value, and what is allowed.
        """
        if how not in UNIQUE_WAYS:
            raise InvalidSettingError("unique", how, f"it is one of {', '.join(map(repr, UNIQUE_WAYS))}")
        if key is not None and len(key) > _LONGEST_KEY:
            raise InvalidSettingError("unique_key", f"{key[:50]}...", f"it has at most {_LONGEST_KEY:,} characters")
        if max_wait is not None:
            if key is None or how != "extend":
                raise InvalidSettingError("max_wait", max_wait, 'it needs unique_key and unique="extend"')
            is_number = isinstance(max_wait, int | float) and not isinstance(max_wait, bool)
            if not is_number or not 0 < max_wait <= _LONGEST_WAIT_S:  # type: ignore[operator]
                raise InvalidSettingError(
                    "max_wait", max_wait, f"it is a number of seconds above 0, at most {_LONGEST_WAIT_S:,}"
                )
        if key is None:
            if how != "replace":
                raise InvalidSettingError("unique", how, "it needs unique_key")
            return None
        return cls(key, str(how), None if max_wait is None else round(max_wait * 1000))  # type: ignore[operator]
