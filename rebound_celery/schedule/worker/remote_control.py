"""Celery's remote control over what waits in the schedule: `revoke` removes it for good, `inspect` shows it.

What waits is no worker's. So of the workers that are asked, one shows it: the first that comes to each queue.
Stock Celery keeps revoked ids in each worker's memory, so that a worker that starts later runs the task all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any

from celery import Celery
from celery.utils.functional import maybe_list
from celery.utils.imports import symbol_by_name
from kombu.exceptions import KombuError
from kombu.pidbox import Node
from redis.exceptions import RedisError

from ...compat.celery_panel import extend_command
from ..store.store import Store
from . import announcements
from .shown import known_ids, list_scheduled, message_of, query_waiting, schedules

#: The panel's commands that are answered from the schedule too, under all of their names.
_REVOKE = ("revoke",)
_SCHEDULED = ("scheduled", "dump_schedule")
_QUERY = ("query_task",)

FAULTS = (RedisError, OSError, KombuError)

logger = logging.getLogger(__name__)


class _Node(Node):
    """A worker's end of remote control. It tells its commands which question they answer: all workers are asked."""

    def dispatch(self, method: Any, arguments: Any = None, reply_to: Any = None, ticket: Any = None, **kw: Any) -> Any:
        self.state["ticket"] = ticket
        return super().dispatch(method, arguments, reply_to, ticket, **kw)


def make_control(control_cls: Any, app: Celery) -> Any:
    """The app's `app.control`, whose `revoke` also removes what waits, whether or not a worker is there to hear it."""
    base = symbol_by_name(control_cls)

    class Mailbox(base.Mailbox):  # type: ignore[name-defined]
        node_cls = _Node

    class Control(base):  # type: ignore[misc, valid-type]
        def revoke(self, task_id: str | Iterable[str], *args: Any, **kwargs: Any) -> Any:
            ids, queues = _ids(task_id), list(self.app.amqp.queues)
            known = _known(self.app, ids, queues)
            reply = super().revoke([*ids, *known] if known else task_id, *args, **kwargs)
            removed = withdraw(self.app, [*ids, *known], queues)
            _tell(ids, removed, queues)
            return reply

    Control.Mailbox = Mailbox
    Control.__name__ = base.__name__
    return Control(app)


def withdraw(app: Celery, ids: Iterable[str], queues: Iterable[str]) -> list[str]:
    """Remove waiting tasks, and let each be known as revoked; returns their ids.

    Tasks that a worker holds are the worker's: it has heard of the revocation itself.
    """
    ids = list(ids)
    removed = []
    with schedules(app, queues) as found:
        for store, options in found:
            for entry in filter(None, map(store.get, store.known(ids))):
                for stored in store.cancel(entry.id):
                    removed.append(entry.id)
                    message = message_of(options, store.queue, entry, stored)
                    if message is not None:
                        announcements.revoked(app, message)
    return removed


def _known(app: Celery, ids: list[str], queues: Iterable[str]) -> list[str]:
    """Other ids of tasks that are meant by these: a leased queue's owner may know a task by several."""
    try:
        with schedules(app, queues) as found:
            known = [name for store, options in found for name in known_ids(store, options, ids)]
    except FAULTS as error:
        logger.warning("it cannot be looked up which waiting tasks %s are: %s", ", ".join(ids), error)
        return []
    return [name for name in known if name not in ids]


def _tell(ids: Iterable[str], removed: Collection[str], queues: Iterable[str]) -> str:
    """Say what a revocation has found; returns what was said."""
    missed = [name for name in ids if not any(one == name or one.startswith(f"{name}:") for one in removed)]
    said = []
    if removed:
        said.append(f"removed from the schedule: {', '.join(removed)}")
    if missed:
        said.append(f"not waiting in {', '.join(sorted(queues))}: {', '.join(missed)}")
    text = "; ".join(said)
    if text:
        logger.info("revoke: %s", text)
    return text


def _ids(task_id: str | Iterable[str]) -> list[str]:
    return [str(identity) for identity in maybe_list(task_id) or ()]


def extend_panel() -> None:
    """Let this worker's remote control reach the schedule."""

    def queues(state: Any) -> list[str]:
        return [queue.name for queue in state.consumer.task_consumer.queues]

    def answers(state: Any) -> Callable[[Store], bool]:
        ticket = state.get("ticket")
        return lambda store: ticket is None or store.answers(str(ticket))

    def revoke(state: Any, task_id: str | Iterable[str], original: Callable[..., Any], **kwargs: Any) -> Any:
        ids = _ids(task_id)
        known = _known(state.app, ids, queues(state))
        answer = original(state, [*ids, *known] if known else task_id, **kwargs)
        text = _tell(ids, withdraw(state.app, [*ids, *known], queues(state)), queues(state))
        if text and isinstance(answer, dict) and "ok" in answer:
            return {**answer, "ok": f"{answer['ok']}; {text}"}
        return answer

    def scheduled(state: Any, original: Callable[..., Any], **kwargs: Any) -> Any:
        return original(state, **kwargs) + list_scheduled(state.app, queues(state), answers(state))

    def query_task(state: Any, ids: Any, original: Callable[..., Any], **kwargs: Any) -> Any:
        return {**query_waiting(state.app, queues(state), _ids(ids), answers(state)), **original(state, ids, **kwargs)}

    extend_command(_REVOKE, revoke)
    extend_command(_SCHEDULED, scheduled)
    extend_command(_QUERY, query_task)
