"""The tests of the fields of a filter: each takes a view and the time, and says whether the view fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import translate
from functools import partial
from typing import Any

from ..policy.patterns import destination_pattern
from .views import View

#: The destination of dead letters that Redis keeps, which is no URL.
DEAD_SET = "dead-set"

Test = Callable[[View, int], bool]


def pattern_of(text: str) -> Callable[[str], object]:
    return re.compile(translate(text)).match


def fitting(name: str, pattern: str) -> Test:
    fits = pattern_of(pattern)

    def test(view: View, _: int) -> bool:
        value = getattr(view, name)
        return value is not None and bool(fits(value))

    return test


def going_to(pattern: str) -> Test:
    # The dead set is no URL.
    fits = destination_pattern(pattern).regex.match if pattern != DEAD_SET else DEAD_SET.__eq__

    def test(view: View, _: int) -> bool:
        text = view.destination_text
        return text is not None and bool(fits(text))

    return test


def between(name: str, first: int | None, last: int | None) -> Test:
    def test(view: View, _: int) -> bool:
        # A view of the other kind has no such time.
        value = view.time_ms if name in view.__struct_fields__ else None
        return value is not None and (first is None or first <= value) and (last is None or value <= last)

    return test


def aged(least_s: float | None, most_s: float | None) -> Test:
    def test(view: View, now_ms: int) -> bool:
        if view.since_ms is None:
            return False
        age_s = (now_ms - view.since_ms) / 1000
        return (least_s is None or least_s <= age_s) and (most_s is None or age_s <= most_s)

    return test


def raising(pattern: str) -> Test:
    fits = pattern_of(pattern)

    def test(view: View, _: int) -> bool:
        name = view.exception
        return name is not None and bool(fits(name) or fits(name.rpartition(".")[2]))

    return test


def having(header: str, pattern: str | None) -> Test:
    fits = None if pattern is None else pattern_of(pattern)

    def test(view: View, _: int) -> bool:
        return any(
            name == header and (fits is None or (value is not None and bool(fits(value.decode("utf-8", "replace")))))
            for name, value in view.headers
        )

    return test


def saying(text: str) -> Test:
    wanted = text.casefold()

    def test(view: View, _: int) -> bool:
        return view.failure is not None and wanted in str(view.failure).casefold()

    return test


def _equal_to(name: str) -> Callable[[object], Test]:
    return lambda wanted: lambda view, _: getattr(view, name) == wanted


def _from_or_to(pattern: str) -> Test:
    fits = pattern_of(pattern)
    return lambda view, _: any(map(fits, view.topics))


#: Field of a filter -> what makes its test of the value. The quick tests come first.
MAKERS: Mapping[str, Callable[[Any], Test]] = {
    "attempt": _equal_to("attempt_number"),
    "key": _equal_to("key"),
    "topic": _from_or_to,
    "reason": partial(fitting, "reason"),
    "task": partial(fitting, "task"),
    "destination": going_to,
    "exception": raising,
    "text": saying,
}
