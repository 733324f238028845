"""Checks what callers give to the views of operators, so that an error names the argument and what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InvalidSettingError
from .filter import Filter


def check_filter(value: object) -> None:
    """Check a filter; None is no filter.

    Raises:
        InvalidSettingError: if it is something else.
    """
    if value is not None and not isinstance(value, Filter):
        raise InvalidSettingError("filter", value, "it is a Filter, such as Filter(topic='orders')")


def check_text(field: str, value: object, rule: str) -> None:
    """Check that a value is a text.

    Raises:
        InvalidSettingError: naming the field and the rule for it.
    """
    if not isinstance(value, str):
        raise InvalidSettingError(field, value, rule)


def check_count(field: str, value: object) -> None:
    """Check a number of entries; None is no number.

    Raises:
        InvalidSettingError: naming the field.
    """
    if value is not None and not (type(value) is int and value >= 1):
        raise InvalidSettingError(field, value, "it is a whole number from 1")


def check_choice(ids: Sequence[object], chosen: object) -> None:
    """Check that either ids or a filter say which entries are meant.

    Raises:
        InvalidSettingError: naming what is wrong, and what to give.
    """
    for identity in ids:
        if isinstance(identity, Filter):
            raise InvalidSettingError("ids", str(identity), "it is a filter, and no id: give it as filter=...")
        rule = "an id is a text: give each as an argument of its own, and those of a list with a star, as in (*ids)"
        check_text("ids", identity, rule)
    check_filter(chosen)
    if ids and chosen is not None:
        raise InvalidSettingError("filter", str(chosen), "ids say which entries are meant: leave out one of both")
    if not ids and chosen is None:
        raise InvalidSettingError("ids", list(ids), "give ids, or a filter (Filter() means all)")


def check_limit(ids: Sequence[str], limit: object) -> None:
    """Check the limit of an action, which goes with a filter only.

    Raises:
        InvalidSettingError: if it is no number, or is given with ids.
    """
    check_count("limit", limit)
    if ids and limit is not None:
        raise InvalidSettingError("limit", limit, "it goes with a filter: ids say how many entries are meant")
