"""The consumers that an app declares with `Rebound.consumer`; `celery rebound consume --all` runs them."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import fields as fields_of
from difflib import get_close_matches
from functools import cached_property
from typing import Any, TypeVar

from ..errors import InvalidSettingError
from .config import ConsumerConfig

HandlerFunction = TypeVar("HandlerFunction", bound=Callable[..., object])

logger = logging.getLogger(__name__)

#: What else the decorator takes. Topics and group are its own arguments, and the handler is what it decorates.
_FIELDS = frozenset(field.name for field in fields_of(ConsumerConfig)) - {"topics", "group", "handler"}


class Declared(dict[tuple[object, ...], ConsumerConfig]):
    """Consumers by their group, the name of their handler, and their topics.

    A pickle leaves them out. Apps are pickled for the children of a worker's pool, which consume nothing, and a handler
    need not be picklable.
    """

    def __reduce__(self) -> tuple[type[Declared], tuple[()]]:
        return type(self), ()

    def __deepcopy__(self, _memo: object) -> Declared:
        return type(self)(self)


class ConsumerDeclarations:
    """The part of `Rebound` with which an app's modules declare consumers."""

    @cached_property
    def declared(self) -> Declared:
        """What they have declared, in this order."""
        return Declared()

    def consumer(
        self, *topics: str | re.Pattern[str], group: str, **fields: Any
    ) -> Callable[[HandlerFunction], HandlerFunction]:
        """Declare a function as the handler of a consumer: `@rebound.consumer("orders", group="shop")`.

        `celery -A ... rebound consume --all` runs all consumers that the app's modules declare. The function stays as
        it is, so that tests may call it.

        Args:
            *topics: names of topics, or one compiled pattern.
            group: the consumer group.
            **fields: further fields of ConsumerConfig, such as `policy` and `concurrency`.

        Raises:
            InvalidSettingError: naming the field, its value, and what is allowed; or if the group has another handler
                for a topic.
        """
        return _decorator(self.declared, topics, group, fields)

    @property
    def consumers(self) -> tuple[ConsumerConfig, ...]:
        """The consumers that the app's modules have declared with `consumer`, as far as they are imported."""
        return tuple(self.declared.values())


def _decorator(
    declared: Declared, topics: tuple[str | re.Pattern[str], ...], group: str, fields: Mapping[str, Any]
) -> Callable[[HandlerFunction], HandlerFunction]:
    def decorate(handler: HandlerFunction) -> HandlerFunction:
        config = _config(topics, group, handler, fields)
        # A module that is imported twice, or again, declares the same consumer. Functions that are made in a loop, and
        # lambdas, have one name.
        name = (group, _name_of(handler), config.topics)
        others = [other for key, other in declared.items() if key != name and other.group == group]
        for topic in config.topic_names():
            if any(topic in other.topic_names() for other in others):
                raise InvalidSettingError("topics", topic, f"the group {group!r} has another handler for it")
        if name in declared:
            _warn_of_another(declared[name].handler, handler, group)
        declared[name] = config
        return handler

    return decorate


def _config(
    topics: tuple[str | re.Pattern[str], ...], group: str, handler: Callable[..., object], fields: Mapping[str, Any]
) -> ConsumerConfig:
    for name in fields:
        if name not in _FIELDS:
            near = get_close_matches(name, _FIELDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidSettingError(name, fields[name], f"there is no such field here{hint}")
    patterns = [topic for topic in topics if isinstance(topic, re.Pattern)]
    if patterns and len(topics) > 1:
        raise InvalidSettingError("topics", topics, "give names, or one compiled pattern")
    chosen: Any = patterns[0] if patterns else topics
    return ConsumerConfig(group=group, topics=chosen, handler=handler, **fields)


def _warn_of_another(earlier: Callable[..., object], handler: Callable[..., object], group: str) -> None:
    """Log a warning where a function takes the place of another one, and not of itself in a module imported again."""
    places = _place_of(earlier), _place_of(handler)
    if places[0] != places[1]:
        logger.warning(
            "the group %r has two handlers with the name %s, and only the second one is called: %s and %s",
            group,
            _name_of(handler),
            *places,
        )


def _place_of(handler: Callable[..., object]) -> str:
    code = getattr(inspect.unwrap(handler), "__code__", None)  # any callable of the user
    return _name_of(handler) if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _name_of(handler: Callable[..., object]) -> str:
    named: Any = handler if hasattr(handler, "__qualname__") else type(handler)  # any callable of the user
    return f"{named.__module__}.{named.__qualname__}"
