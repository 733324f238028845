"""Caches frozen values that most messages share, so that each value is checked once and not for each message."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

#: The largest number of values in a cache. A full cache drops its least recently used value.
_SIZE = 1_024


def cached(make: Callable[..., T]) -> Callable[..., T]:
    """Wrap `make` so that it returns the same object for the same arguments. Use it only for immutable objects.

    If an argument cannot be hashed, `make` is called directly and raises its own error. Errors are not cached.
    """
    # `typed`, because 1, 1.0 and True are equal, but only 1 is a valid number of retries.
    remembered = lru_cache(_SIZE, typed=True)(make)

    def intern(*arguments: object) -> T:
        try:
            return remembered(*arguments)
        except TypeError:
            return make(*arguments)

    return intern
