"""The options of a channel's connections to Redis."""

from __future__ import annotations

from typing import Any

from .refusals import Parser

#: Seconds that kombu's own commands may take, where the app sets no time-out. kombu's default is none: where a network
#: drops packets without a word, the worker's event would hold its loop for ever, and no signal would end the worker.
_SOCKET_TIMEOUTS = {"socket_timeout": 10.0, "socket_connect_timeout": 5.0}

#: What redis-py tells Redis of itself. Otherwise it reads its version from a file for each connection that it makes. If
#: no file can be opened, because the process has no file descriptor left, its pool counts a connection that was not
#: made. After ten of them the pool makes no further one, however many descriptors there are then.
_DRIVER: dict[str, Any] = {}

try:
    from redis.driver_info import DriverInfo
except ImportError:
    # Earlier versions of redis-py read it once.
    pass
else:
    _DRIVER["driver_info"] = DriverInfo()


def add_options(parameters: dict[str, Any]) -> None:
    """Add to kombu's options of connections what the schedule needs."""
    parameters["parser_class"] = Parser
    parameters.update(_DRIVER)
    for name, seconds in _SOCKET_TIMEOUTS.items():
        # A Unix socket has no time to connect.
        if name in parameters and parameters[name] is None:
            parameters[name] = seconds
