"""Frozen values that are the same for most messages, checked once instead of each time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")

#: How many different values each of them remembers; the least recently used is forgotten.
_SIZE = 1_024


def cached(make: Callable[..., T]) -> Callable[..., T]:
    """`make`, which then gives the same object for the same arguments. Only for what never changes.

    Arguments that cannot be hashed are `make`'s to refuse, in its own words; what it raises is never remembered.
    """
    # `typed`, for 1, 1.0 and True are equal, but not all three are a number of retries.
    remembered = lru_cache(_SIZE, typed=True)(make)

    def intern(*arguments: object) -> T:
        try:
            return remembered(*arguments)
        except TypeError:
            return make(*arguments)

    return intern
