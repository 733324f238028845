"""Waits for a condition until a deadline. Tests use it in place of a sleep."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], *, timeout: float = 10.0, message: str | Callable[[], str] = "", interval: float = 0.02
) -> T:
    """Call `predicate` until its answer is true and return that answer; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() >= deadline:
            what = message() if callable(message) else message
            raise AssertionError(f"not within {timeout:g} s: {what or predicate} (last answer: {answer!r})")
        time.sleep(interval)
