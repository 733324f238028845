"""Rules by error: what a policy does about an exception of a certain class."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Final, Literal

import msgspec

from ..errors import InvalidSettingError, UnknownVersionError
from .causes import full_name
from .checks import MAX_DELAY_S, check_choice, check_seconds, check_topic, compact, is_list

RETRY: Final = "retry"
DEAD_LETTER: Final = "dead-letter"
DROP: Final = "drop"

Then = Literal["retry", "dead-letter", "drop"]
THEN: Final = (RETRY, DEAD_LETTER, DROP)

_FIELDS = frozenset({"error", "then", "delay", "dead_letter_topic"})

#: A Python name with dots. `<locals>` is part of the name of a class that a function makes.
_NAME_FORM = re.compile(r"[^\W\d]\w*(\.([^\W\d]\w*|<locals>))*")
_NAME_RULE = "give an exception class, or its name with its module, such as 'requests.exceptions.Timeout'"

#: Names that are not imported to see whether they exist. They were given as classes, or a stored policy has them, which
#: was checked where it was made.
_KNOWN: set[str] = set()
_MOST_KNOWN = 10_000

#: What names an exception: its class, or its full name.
Named = type[BaseException] | str


class ErrorRule(msgspec.Struct, frozen=True, gc=False, repr_omit_defaults=True):
    """What a policy does about exceptions of certain classes.

    A rule is for an exception if it names the exception's class, one of its base classes, or the same of one of its
    causes (`raise ... from cause`). The first such rule of a policy counts.

    Args:
        error: a class, its full name ("requests.exceptions.Timeout"; "ValueError" for Python's own), or several.
        then: "retry" until the retries are spent, "dead-letter" at once, or "drop": no retry and no dead letter.
        delay: with "retry", the seconds before each retry, in place of the policy's own delay; from 0 to ten years.
        dead_letter_topic: where the dead letter goes; None means the usual dead letter topic.
        unknown: options that a later version wrote, packed.

    Raises:
        InvalidSettingError: for any other value.
    """

    error: Named | Iterable[Named] | tuple[str, ...]
    then: Then = "retry"
    delay: float | None = None
    dead_letter_topic: str | None = None
    unknown: bytes = b""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "error", _names(self.error))
        check_choice("then", self.then, THEN)
        if self.delay is not None:
            check_seconds("delay", self.delay, 0, MAX_DELAY_S)
            if self.then != RETRY:
                raise InvalidSettingError("delay", self.delay, f"{self.then!r} has no delay; only 'retry' has one")
        topic: object = self.dead_letter_topic
        if topic is not None:
            check_topic(topic, "dead_letter_topic")
            if self.then == DROP:
                raise InvalidSettingError("dead_letter_topic", topic, "'drop' writes no dead letter")

    @property
    def names(self) -> tuple[str, ...]:
        """The full names of the classes that the rule is for."""
        return self.error  # type: ignore[return-value]  # __post_init__ has made it

    def to_wire(self) -> dict[str, Any]:
        """Return the rule as a mapping without the options that are not set."""
        names = self.names
        wire: dict[str, Any] = {"error": names[0] if len(names) == 1 else list(names), "then": self.then}
        if self.delay is not None:
            wire["delay"] = compact(self.delay)
        if self.dead_letter_topic is not None:
            wire["dead_letter_topic"] = self.dead_letter_topic
        if self.unknown:
            wire |= msgspec.msgpack.decode(self.unknown)
        return wire

    @classmethod
    def from_wire(cls, wire: object) -> ErrorRule:
        """Read a mapping that `to_wire` wrote, in this version or another.

        Raises:
            UnknownVersionError: if this version does not know what the rule does.
            ValueError: if it is not a rule.
        """
        if not isinstance(wire, Mapping):
            raise ValueError("a rule of a policy is a mapping")  # noqa: TRY004 - damage, not misuse
        then = wire.get("then")
        if isinstance(then, str) and then not in THEN:
            raise UnknownVersionError(f"a rule of a retry policy that does {then[:50]!r}")
        unknown = {name: value for name, value in wire.items() if name not in _FIELDS}
        rule = cls(
            wire.get("error", ()),
            then,  # type: ignore[arg-type]  # checked by the constructor
            wire.get("delay"),
            wire.get("dead_letter_topic"),
            msgspec.msgpack.encode(unknown) if unknown else b"",
        )
        for name in rule.names:
            _know(name)
        return rule


def _know(name: str) -> None:
    # Stored data may hold any number of names.
    if len(_KNOWN) < _MOST_KNOWN:
        _KNOWN.add(name)


def _names(error: object) -> tuple[str, ...]:
    """Return the full names of what `error` names."""
    given: Iterable[object] = error if is_list(error) else (error,)  # type: ignore[assignment]
    names: dict[str, None] = {}
    for one in given:
        if isinstance(one, type) and issubclass(one, BaseException):
            name = full_name(one)
            _know(name)
            names[name] = None
        elif isinstance(one, str) and _NAME_FORM.fullmatch(one):
            names[str.__str__(one)] = None
        else:
            raise InvalidSettingError("error", one, _NAME_RULE)
    if not names:
        raise InvalidSettingError("error", error, _NAME_RULE)
    return tuple(names)


def imported(name: str) -> type[BaseException]:
    """Import the exception class that `name` names.

    Raises:
        InvalidSettingError: if there is no such class.
    """
    module_name, _, rest = name.rpartition(".")
    if not module_name:
        found: Any = vars(builtins).get(rest)
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
        raise InvalidSettingError("error", name, f"Python has no exception of this name; {_NAME_RULE}")
    tried = ""
    parts = name.split(".")
    # The class may be inside another class. So the longest part of the name that is a module is looked for.
    for count in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:count])
        try:
            found = import_module(module_name)
        except ModuleNotFoundError as missing:
            if missing.name is None or not f"{module_name}.".startswith(f"{missing.name}."):
                raise _not_imported(name, missing) from missing
            tried = tried or str(missing)
            continue
        except Exception as error:
            raise _not_imported(name, error) from error
        for part in parts[count:]:
            found = getattr(found, part, None)  # of the user: a module or a class
        if isinstance(found, type) and issubclass(found, BaseException):
            return found
        what = "there is no such class" if found is None else "it is no exception class"
        raise InvalidSettingError("error", name, f"it cannot be imported: {what} in the module {module_name!r}")
    raise InvalidSettingError("error", name, f"it cannot be imported: {tried}")


def _not_imported(name: str, error: Exception) -> InvalidSettingError:
    return InvalidSettingError("error", name, f"it cannot be imported: {type(error).__name__}: {error}")


def with_true_names(rule: ErrorRule) -> ErrorRule:
    """Return a rule with the names that the classes themselves have, for a name may be imported from elsewhere.

    `requests.Timeout` is the class `requests.exceptions.Timeout`.

    Raises:
        InvalidSettingError: if a class cannot be imported.
    """
    names = tuple(name if name in _KNOWN else full_name(imported(name)) for name in rule.names)
    return rule if names == rule.names else msgspec.structs.replace(rule, error=names)
