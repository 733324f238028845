"""The leases of this process: one `Leases` for each Redis server. Their threads end before the interpreter does."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Hashable

from ...clock import SYSTEM_CLOCK
from .leases import Leases

#: How long the end of the process waits for the threads, in seconds. A Redis that is silent holds it up no longer.
_END_S = 2.0

_registry: dict[Hashable, Leases] = {}
_registry_lock = threading.Lock()


def leases_of(server: Hashable, make: Callable[[], Leases]) -> Leases:
    """This process's leases on a server: one for all channels, whichever connection they came over."""
    with _registry_lock:
        found = _registry.get(server)
        if found is None:
            found = _registry[server] = make()
        return found


def all_leases() -> list[Leases]:
    """This process's leases on every server."""
    with _registry_lock:
        return list(_registry.values())


def _forget_after_fork() -> None:
    """A forked child holds no leases; the parent goes on renewing its own."""
    global _registry_lock
    _registry_lock = threading.Lock()
    _registry.clear()


def _end_threads() -> None:
    """Let the threads end.

    The interpreter ends a thread that outlives it with `pthread_exit`, which unwinds the thread's stack. Under gevent
    and eventlet a thread in a command to Redis has the stacks of several greenlets in one, and unwinding them is a
    segmentation fault.
    """
    leases = all_leases()
    for one in leases:
        one.thread.ask_to_end()
    deadline = SYSTEM_CLOCK.monotonic() + _END_S
    for one in leases:
        one.thread.wait_for_end(max(0.0, deadline - SYSTEM_CLOCK.monotonic()))


os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_end_threads)
