"""Reads an exception and its causes: the names of their classes, and what the handler has asked for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from .instructions import DeadLetter, Drop, Instruction, RetryAfter

#: What may give an instruction without a cause. A tuple, because a union would be made again for each error.
_BEARERS = (Instruction, BaseExceptionGroup)

#: How many exceptions of one chain are looked at. A chain may be a circle, or of any length.
_MAX_CAUSES = 20


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes, the outermost first.

    A cause is what `raise ... from cause` names. An exception that was only being handled when another one was raised
    is no cause: the handler may have dealt with it. A group that holds one exception counts as caused by it.
    """
    current: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if current is None:
            return
        yield current
        if isinstance(current, BaseExceptionGroup) and len(current.exceptions) == 1:
            current = current.exceptions[0]
        else:
            current = current.__cause__


def instruction_of(error: BaseException) -> RetryAfter | DeadLetter | Drop | None:
    """Return the handler's instruction: `error` itself or the first one among its causes; None if there is none."""
    if error.__cause__ is None and not isinstance(error, _BEARERS):
        return None  # almost always
    for one in chain(error):
        if isinstance(one, RetryAfter | DeadLetter | Drop):
            return one
    return None


def names_of(error: BaseException) -> frozenset[str]:
    """Return the full names of the classes of an exception and of its causes, each with its base classes."""
    kind: Any = type(error)
    if error.__cause__ is None and not isinstance(error, BaseExceptionGroup):
        return _names_of_class(kind)
    kinds: list[Any] = [type(one) for one in chain(error)]
    return frozenset().union(*map(_names_of_class, kinds))


def full_name(kind: type) -> str:
    """Return a class's name with its module; without the module for Python's own exceptions."""
    module, name = kind.__module__, kind.__qualname__
    return name if module == "builtins" else f"{module}.{name}"


@lru_cache(1024)
def _names_of_class(kind: Any) -> frozenset[str]:
    names = set()
    for base in kind.__mro__[:-1]:  # without `object`
        try:
            names.add(full_name(base))
        except Exception:  # noqa: BLE001, S112 - a user's metaclass may raise anything
            continue
    return frozenset(names)
