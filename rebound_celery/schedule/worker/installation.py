"""Delayed delivery for a Celery app: its Redis connections get the transport with a schedule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

import kombu.transport
from celery import Celery, signals

from ..transport import eta
from . import announcements as announce
from . import redis_checks as redis_risks
from . import worker_state
from .reconnects import look_often
from .remote_control import extend_panel, make_control

_HOME = "rebound_celery.schedule.transport.transport"
_TRANSPORTS = {"redis": "Transport", "rediss": "Transport", "sentinel": "SentinelTransport"}

DEFAULT_LEASE_S = 30.0
DEFAULT_MAX_LOSSES = 3


def install_schedule(app: Celery, options: Callable[[], Mapping[str, Any]] | None = None) -> None:
    """Let every countdown of `app` wait in Redis under a lease, in place of a worker's memory.

    Broker URLs stay as they are (redis, rediss, sentinel, sockets), with all options; other brokers are not changed.

    Args:
        app: the Celery app.
        options: asked when a connection is made; gives `leased` (names of queues whose messages all go through the
            schedule), `lease` (seconds a worker's claim lasts unless renewed), `max_losses` (how many of its workers
            may be lost before a message is dead) and `health_file` (what a worker tells of its health; a path). None
            means no such queue, 30 seconds, 3, and no file.
    """
    _register()
    make_connection = app._connection  # noqa: SLF001 - the one place where Celery makes every connection

    @wraps(make_connection)
    def connection(url: Any, *args: Any, transport_options: Mapping[str, Any] | None = None, **kwargs: Any) -> Any:
        chosen = {
            "leased": (),
            "lease": DEFAULT_LEASE_S,
            "max_losses": DEFAULT_MAX_LOSSES,
            "health_file": None,
            "app": announce.token_of(app),
        }
        chosen.update(options() if options is not None else {})
        options_with_it = {**(transport_options or {}), "rebound": chosen}
        made = make_connection(url, *args, transport_options=options_with_it, **kwargs)
        if made.transport_cls in _TRANSPORTS:
            look_often(made)
        return made

    app._connection = connection  # noqa: SLF001
    signals.task_received.connect(eta.give_back, dispatch_uid="rebound-eta")
    # Celery takes any callable here, and this one can be pickled with the app.
    app.control_cls = partial(make_control, app.control_cls)
    vars(app).pop("control", None)  # made already, from the class before
    signals.worker_init.connect(_prepare_worker, dispatch_uid="rebound-worker")
    signals.worker_ready.connect(_check_redis, dispatch_uid="rebound-redis")
    signals.worker_ready.connect(_watch, dispatch_uid="rebound-watch")
    signals.worker_shutdown.connect(_unwatch, dispatch_uid="rebound-unwatch")


def _prepare_worker(sender: Any = None, **_: Any) -> None:
    # Here, because only a worker has it, and importing it takes time.
    from . import lost_workers as worker_loss

    worker_state.remember(sender)
    extend_panel()
    worker_loss.use_in(sender.app)


def _check_redis(sender: Any = None, **_: Any) -> None:
    redis_risks.warn_of_eviction(sender.app)


def _watch(sender: Any = None, **_: Any) -> None:
    from . import watchdog

    watchdog.watch(sender)


def _unwatch(sender: Any = None, **_: Any) -> None:
    from . import watchdog

    watchdog.unwatch(sender)


def _register() -> None:
    """Put the transport under kombu's own aliases: tools that read the URL's scheme, as Flower does, still know it.

    It acts as kombu's own on connections without the option, so other apps of the process are not touched.
    """
    for alias, name in _TRANSPORTS.items():
        kombu.transport.TRANSPORT_ALIASES[alias] = f"{_HOME}:{name}"
        # kombu remembers what it has resolved.
        kombu.transport._transport_cache.pop(alias, None)  # noqa: SLF001
