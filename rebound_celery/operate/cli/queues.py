"""Says so if a queue that was given has nothing in it, and is probably misspelt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rebound_celery.operate.cli.output import say

if TYPE_CHECKING:
    from rebound_celery.pending import Pending


def say_if_unused(app: Any, pending: Pending, queue: str | None) -> None:
    """Print to stderr that a queue is unknown: it is none of the app's, and nothing was ever stored in it.

    Args:
        app: the Celery app.
        pending: what waits in its schedules.
        queue: the queue that was given; None if none was.
    """
    if queue is None or queue in (known := _queues_of(app)):
        return
    numbers = pending.stats(queue=queue)
    if numbers.waiting or numbers.leased or numbers.behind or numbers.dead or numbers.counters:
        return
    from difflib import get_close_matches

    near = get_close_matches(queue, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the app's queues are {', '.join(known)}"
    say(f"The queue {queue!r} is unknown: nothing is stored in it, and no worker has claimed from it; {hint}", err=True)


def _queues_of(app: Any) -> list[str]:
    """The queues that the app names: rebound's own, the default, task_queues, and those of a mapping of routes."""
    routes = app.conf.task_routes
    routed = (
        [route.get("queue") for route in routes.values() if isinstance(route, Mapping)]
        if isinstance(routes, Mapping)
        else []
    )
    return sorted({*app.amqp.queues, *(name for name in routed if isinstance(name, str))})
