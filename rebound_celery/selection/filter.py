"""The filter: which of the waiting messages, or of the dead letters, are meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import InvalidSettingError
from ..policy.patterns import destination_fault, topic_fault
from .matching import DEAD_SET, MAKERS, Test, aged, between, having
from .reading import READERS, key_text
from .times import read_duration_s, read_time_ms
from .views import View

#: The longest text of a field, in characters.
_LONGEST = 1_000


@dataclass(frozen=True)
class Filter:
    """Which messages are meant: those that fit every field that is given. Without any field it means all.

    In `topic`, `destination`, `exception`, `reason`, `task` and the values of `header`, `*` stands for any characters,
    `?` for one, and `[a-c]` for one of these. What a message does not have fits no field.

    Attributes:
        topic: a pattern for the topic that it comes from, or that it goes to.
        key: the record's key, byte for byte.
        destination: a pattern for the destination: `kafka://orders`, `https://shop.example/*`. User and query of a URL
            are no part of it. A sign in its host or port stands for a part of this only.
        exception: a pattern for the class of the last exception, with its module (`myapp.errors.*`) or without
            (`Timeout*`).
        reason: a pattern for the reason of a dead letter, such as `retries-exhausted`.
        attempt: the next attempt of what waits, or the last one of a dead letter.
        due_from_ms, due_to_ms: the earliest and the latest due time of what waits.
        died_from_ms, died_to_ms: the earliest and the latest time of death of a dead letter.
        older_than_s, younger_than_s: the age: of what waits since its first failure, of a dead letter since its death.
        header: pairs of a header's name and a pattern for its value; None as a value means any value. Each has to fit.
        text: a text in the last error, or in the name of its class, in capitals or not.
        task: a pattern for the name of an ordinary Celery task.

    Raises:
        InvalidSettingError: naming the field, its value, and what is allowed.
    """

    topic: str | None = None
    key: bytes | None = None
    destination: str | None = None
    exception: str | None = None
    reason: str | None = None
    attempt: int | None = None
    due_from_ms: int | None = None
    due_to_ms: int | None = None
    died_from_ms: int | None = None
    died_to_ms: int | None = None
    older_than_s: float | None = None
    younger_than_s: float | None = None
    header: tuple[tuple[str, str | None], ...] = ()
    text: str | None = None
    task: str | None = None

    def __post_init__(self) -> None:
        self._check_texts()
        if self.attempt is not None and not (type(self.attempt) is int and self.attempt >= 1):
            raise InvalidSettingError("attempt", self.attempt, "it is a whole number from 1")
        for name in ("due_from_ms", "due_to_ms", "died_from_ms", "died_to_ms"):
            if (value := getattr(self, name)) is not None:
                read_time_ms(name, value if type(value) is int else None, 0)
        for name in ("older_than_s", "younger_than_s"):
            if (value := getattr(self, name)) is not None:
                read_duration_s(name, None if isinstance(value, str) else value)
        self._check_order("due_from_ms", "due_to_ms", "before")
        self._check_order("died_from_ms", "died_to_ms", "before")
        self._check_order("older_than_s", "younger_than_s", "less than")
        if not isinstance(self.header, tuple) or not all(map(_is_header, self.header)):
            raise InvalidSettingError("header", self.header, "it is a tuple of pairs of a name and a pattern, or None")

    def _check_texts(self) -> None:
        for name in ("topic", "destination", "exception", "reason", "text", "task"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and 0 < len(value) <= _LONGEST):
                raise InvalidSettingError(name, value, f"it is a text of 1 to {_LONGEST:,} characters")
        if self.key is not None and not isinstance(self.key, bytes):
            raise InvalidSettingError("key", self.key, "it is bytes")
        if self.topic is not None and (fault := topic_fault(self.topic)):
            raise InvalidSettingError("topic", self.topic, fault)
        if self.destination not in (None, DEAD_SET) and (fault := destination_fault(str(self.destination))):
            raise InvalidSettingError("destination", self.destination, fault)

    def _check_order(self, start: str, end: str, how: str) -> None:
        first, last = getattr(self, start), getattr(self, end)
        if first is not None and last is not None and last < first:
            raise InvalidSettingError(end, last, f"it is {how} {start}={first}, so nothing fits")

    @property
    def is_empty(self) -> bool:
        """Whether it means everything."""
        return self == NO_FILTER

    def matches(self, view: View, now_ms: int) -> bool:
        """Return whether a view fits.

        Args:
            view: the waiting message or the dead letter.
            now_ms: the time, for the age.
        """
        # A loop, for a million views: a generator takes twice as long.
        for test in self._tests:  # noqa: SIM110
            if not test(view, now_ms):
                return False
        return True

    @cached_property
    def _tests(self) -> tuple[Test, ...]:
        """The tests of the fields that are given."""
        tests = [make(value) for name, make in MAKERS.items() if (value := getattr(self, name)) is not None]
        if not (self.due_from_ms is None and self.due_to_ms is None):
            tests.append(between("due_ms", self.due_from_ms, self.due_to_ms))
        if not (self.died_from_ms is None and self.died_to_ms is None):
            tests.append(between("died_ms", self.died_from_ms, self.died_to_ms))
        if not (self.older_than_s is None and self.younger_than_s is None):
            tests.append(aged(self.older_than_s, self.younger_than_s))
        return tuple(tests + [having(*each) for each in self.header])

    # reading and writing

    @classmethod
    def parse(cls, values: Mapping[str, object], now_ms: int, *, shown: Callable[[str], str] = str) -> Filter:
        """Read a filter from JSON, a query or the switches of a command; `to_dict` gives what it reads.

        Args:
            values: `FILTER_FIELDS` -> value. None means that the field is not given. Times are Unix milliseconds,
                ISO 8601, `now`, `+10min` or `-2h`; durations are seconds or `10min`; a key that is no text is
                `base64:` and its base64; `header` is `name`, `name=pattern`, or a list of these.
            now_ms: the time, for times from now.
            shown: gives the name of a field for errors.

        Raises:
            InvalidSettingError: naming the field, its value, and what is allowed.
        """
        given: dict[str, Any] = {}
        for name, value in values.items():
            reader = READERS.get(name)
            if reader is None:
                raise InvalidSettingError(shown(name), value, f"the fields of a filter are {', '.join(READERS)}")
            if value is not None:
                field, read = reader
                given[field] = read(shown(name), value, now_ms)
        try:
            return cls(**given)
        except InvalidSettingError as error:
            names = {field: name for name, (field, _) in READERS.items()}
            raise InvalidSettingError(shown(names[error.field]), error.value, error.allowed) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are given as JSON has them. The keys are stable."""
        found: dict[str, Any] = {}
        for name, (field, _) in READERS.items():
            value = getattr(self, field)
            if value is not None and value != ():
                found[name] = value
        if self.key is not None:
            found["key"] = key_text(self.key)
        if self.header:
            found["header"] = [name if value is None else f"{name}={value}" for name, value in self.header]
        return found

    def __str__(self) -> str:
        """One line for people, logs and the audit log."""
        parts = []
        for name, value in self.to_dict().items():
            parts += [f"{name}={each}" for each in (value if isinstance(value, list) else [value])]
        return ", ".join(parts) or "all"


def _is_header(pair: object) -> bool:
    return (
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], str)
        and bool(pair[0])
        and "=" not in pair[0]
        and (pair[1] is None or isinstance(pair[1], str))
    )


#: The names of the fields, as `Filter.parse` takes them and `Filter.to_dict` gives them.
FILTER_FIELDS = tuple(READERS)

#: The filter that means everything.
NO_FILTER = Filter()
