"""Checks the `broker_transport_options` of an app whose broker is Redis.

kombu and redis-py raise a TypeError or a ValueError that does not name the option, or fail at the first message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .broker_url import REDIS_SCHEMES, kind_of
from .errors import InvalidSettingError

_SETTING = "broker_transport_options"


def _is_time(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0)


def _is_interval(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_count(value: object) -> bool:
    return value is None or (type(value) is int and value >= 1)


def _are_steps(value: object) -> bool:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return False
    return all(type(step) is int and 0 <= step <= 9 for step in value) and list(value) == sorted(set(value))


_TIME = "it is a number of seconds above 0, such as 5.0, or None"

#: Options of kombu's Redis transports: whether a value can be used, and the rule for it.
_RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "socket_timeout": (_is_time, _TIME),
    "socket_connect_timeout": (_is_time, _TIME),
    "health_check_interval": (_is_interval, "it is a number of seconds, such as 25; 0 turns the checks off"),
    "visibility_timeout": (_is_interval, "it is a number of seconds, such as 3600"),
    "max_connections": (_is_count, "it is a whole number from 1, such as 20, or None"),
    "priority_steps": (_are_steps, "it is a list of whole numbers from 0 to 9 in their order, such as [0, 3, 6, 9]"),
    "global_keyprefix": (lambda value: isinstance(value, str), "it is a text, such as 'shop:'"),
}


def check_broker_options(url: object, options: Any) -> None:
    """Check the transport options of a broker. Those of other brokers than Redis are left alone.

    Args:
        url: the broker's URL, as Celery takes it.
        options: the options. Those that are not known here are left to kombu.

    Raises:
        InvalidSettingError: naming the option, its value and what to write.
    """
    kind = kind_of(url)
    if kind not in REDIS_SCHEMES:
        return
    if options is None:
        options = {}
    if not isinstance(options, Mapping):
        raise InvalidSettingError(_SETTING, options, "it is a dict, such as {'socket_timeout': 5.0}")
    for name, (can_be_used, rule) in _RULES.items():
        if name in options and not can_be_used(options[name]):
            raise InvalidSettingError(f'{_SETTING}["{name}"]', options[name], rule)
    master = options.get("master_name")
    if kind == "sentinel" and not (isinstance(master, str) and master):
        raise InvalidSettingError(
            f'{_SETTING}["master_name"]',
            master,
            "a sentinel:// broker needs the name under which the Sentinels know its Redis: write "
            'broker_transport_options={"master_name": "mymaster"}',
        )
