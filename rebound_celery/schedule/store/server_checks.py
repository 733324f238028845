"""Finds settings of a Redis server that endanger what waits in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The oldest server that the schedule's scripts run on.
OLDEST_VERSION = (6, 2)


def eviction(info: Mapping[str, Any]) -> str | None:
    """What is wrong with the eviction policy, by the answer to INFO; None if nothing is."""
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return None
    return (
        f"Redis has maxmemory-policy {policy}: when its memory is full it throws waiting messages away; "
        "set it to noeviction"
    )


def persistence(info: Mapping[str, Any]) -> list[str]:
    """What a crash or a restart of Redis would cost, by the answer to INFO; empty if nothing."""
    found = []
    if not int(info.get("aof_enabled", 0)):
        found.append(
            "Redis keeps no append-only file: a crash loses what was stored since the last snapshot; "
            "set appendonly yes (and appendfsync always where not one message may be lost)"
        )
    found += [
        f"Redis says {name} is {info[name]!r}: it cannot write to its disk; see its log"
        for name in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
        if info.get(name, "ok") != "ok"
    ]
    return found


def role(info: Mapping[str, Any]) -> str | None:
    """What is wrong with the server itself, by the answer to INFO; None if nothing is."""
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(numbers) == 2 and numbers < OLDEST_VERSION:
        return f"Redis {version} is too old: the schedule needs {'.'.join(map(str, OLDEST_VERSION))} or newer"
    if info.get("role") == "slave":
        return "this Redis is a replica and takes no messages; give the app its master's address, or use Sentinel"
    return None
