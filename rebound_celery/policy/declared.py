"""Reads policies from mappings, as `app.conf.rebound_policies` and TOML files hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from ..caching import cached
from ..errors import InvalidSettingError
from ..shown import shown_url
from .checks import is_list
from .policy import EXPONENTIAL, LIST, OPTIONS, RetryPolicy
from .rules import ErrorRule, with_true_names

_RULE_OPTIONS = ("error", "then", "delay", "dead_letter_topic")

#: The name of a rule's field in an error of the policy.
_RULE_FIELD = re.compile(r"rules\[(\d+)\]\.(\w+)")

_DEFAULT_POLICY = RetryPolicy()

#: The place of a value in the mapping: the names and numbers that lead to it.
Path = tuple[str | int, ...]


class Fault(Exception):  # noqa: N818 - it becomes an InvalidSettingError, which says where the mapping is from
    """A value in a mapping that cannot be used.

    Attributes:
        path: where the value is.
        value: the value.
        allowed: what is allowed there.
    """

    def __init__(self, path: Path, value: object, allowed: str) -> None:
        super().__init__(path, value, allowed)
        self.path = path
        self.value = value
        self.allowed = allowed

    @property
    def shown_path(self) -> Path:
        """The path as an error may show it: a pattern of URLs without user and password."""
        return tuple(shown_url(part) if "@" in str(part) else part for part in self.path)  # type: ignore[misc]


@cached
def with_imported_names(policy: RetryPolicy) -> RetryPolicy:
    """Return a policy whose rules have the true names of their exception classes.

    Raises:
        InvalidSettingError: if a class cannot be imported.
    """
    if not policy.rules:
        return policy
    rules = []
    for index, rule in enumerate(policy.rules):
        try:
            rules.append(with_true_names(rule))
        except InvalidSettingError as error:
            raise InvalidSettingError(f"rules[{index}].{error.field}", error.value, error.allowed) from error.__cause__
    return policy if tuple(rules) == policy.rules else msgspec.structs.replace(policy, rules=tuple(rules))


def read_policy(
    given: object, base: RetryPolicy, path: Path = (), *, root: RetryPolicy = _DEFAULT_POLICY
) -> RetryPolicy:
    """Make a policy of a mapping with the options of `RetryPolicy`.

    Args:
        given: the mapping; a RetryPolicy is taken as it is.
        base: has the options that the mapping does not set.
        path: where the mapping is.
        root: has the number of retries and the base delay where `base` is a list of delays and the mapping is not.

    Raises:
        Fault: naming the value that cannot be used.
    """
    try:
        if isinstance(given, RetryPolicy):
            return with_imported_names(given)
        options = read_mapping(given, path, OPTIONS)
        rules = options.get("rules")
        if rules is not None:
            options["rules"] = _read_rules(rules, (*path, "rules"))
        return RetryPolicy(**_inherited(base, options, root), **options)
    except InvalidSettingError as error:
        if (of_rule := _RULE_FIELD.fullmatch(error.field)) is not None:
            raise Fault((*path, "rules", int(of_rule[1]), of_rule[2]), error.value, error.allowed) from None
        known = isinstance(given, Mapping) and error.field in given
        raise Fault(
            (*path, error.field) if known or error.field in OPTIONS else path, error.value, error.allowed
        ) from None


def _inherited(base: RetryPolicy, given: Mapping[str, Any], root: RetryPolicy) -> dict[str, Any]:
    """Return the options of `base` that hold for a policy with the options `given`.

    Delays, and the number of retries with them, go neither from a list to another kind nor the other way.
    """
    options = {name: getattr(base, name) for name in OPTIONS if name not in given}
    if "delays" in given or given.get("kind") == LIST:
        if given.get("kind") == EXPONENTIAL:
            raise InvalidSettingError("kind", EXPONENTIAL, f"a policy with delays is of the kind {LIST!r}")
        if "base_delay" in given:
            raise InvalidSettingError("base_delay", given["base_delay"], "a list of delays has no base_delay")
        for name in ("kind", "max_retries", "base_delay"):
            options.pop(name, None)
    elif base.kind == LIST and given.keys() & {"kind", "base_delay"}:
        for name in ("kind", "delays"):
            options.pop(name, None)
        options |= {name: getattr(root, name) for name in ("max_retries", "base_delay") if name not in given}
    return options


def _read_rules(given: object, path: Path) -> tuple[ErrorRule, ...]:
    if not is_list(given):
        raise Fault(path, given, "it is a list of rules")
    rules = []
    for index, one in enumerate(given):  # type: ignore[var-annotated,arg-type]  # is_list has checked it
        place = (*path, index)
        if isinstance(one, ErrorRule):
            options: dict[str, Any] = {}
            rule = one
        else:
            options = read_mapping(one, place, _RULE_OPTIONS)
            if "error" not in options:
                raise Fault(place, one, "a rule names an error")
        try:
            rules.append(with_true_names(ErrorRule(**options) if options else rule))
        except InvalidSettingError as error:
            raise Fault((*place, error.field), error.value, error.allowed) from None
    return tuple(rules)


def read_mapping(given: object, path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return a mapping with only known names.

    Raises:
        Fault: if it is no mapping, or has another name.
    """
    if not isinstance(given, Mapping):
        raise Fault(path, given, f"it is a mapping with the names {', '.join(names)}")
    for name, value in given.items():
        if name not in names:
            near = get_close_matches(str(name), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise Fault((*path, str(name)), value, f"there is no such option{hint} ({', '.join(names)})")
    return dict(given)
