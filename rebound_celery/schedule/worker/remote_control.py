"""Celery's remote control over what waits in the schedule: `revoke` removes it for good, `inspect scheduled` lists it.

Stock Celery keeps revoked ids in each worker's memory, so that a worker that starts later runs the task all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from celery.utils.functional import maybe_list
from celery.utils.imports import symbol_by_name
from kombu import serialization

from ...compat.celery_panel import extend_command
from ...errors import UnknownVersionError
from ..port import ScheduleOptions
from ..store.store import Store
from ..store.values import Claimed, Waiting
from ..transport import eta, forms
from ..transport.channel import Channel
from . import announcements

#: How many entries `inspect scheduled` shows of each queue, the next due first: the answer is one message.
SHOWN = 1_000

#: What Celery's own `inspect scheduled` says of each: the priority among the timers of a worker. That of the message is
#: in its `delivery_info`.
_TIMER_PRIORITY = 6

#: The first and the last second that a datetime can name, in Unix milliseconds: `datetime.max` is rounded up past it.
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_000

#: The panel's commands that are answered from the schedule too, under all of their names.
_REVOKE = ("revoke",)
_SCHEDULED = ("scheduled", "dump_schedule")

logger = logging.getLogger(__name__)


def make_control(control_cls: Any, app: Celery) -> Any:
    """The app's `app.control`, whose `revoke` also removes what waits, whether or not a worker is there to hear it."""
    base = symbol_by_name(control_cls)

    class Control(base):  # type: ignore[misc, valid-type]
        def revoke(self, task_id: str | Iterable[str], *args: Any, **kwargs: Any) -> Any:
            reply = super().revoke(task_id, *args, **kwargs)
            withdraw(self.app, _ids(task_id), list(self.app.amqp.queues))
            return reply

    Control.__name__ = base.__name__
    return Control(app)


def withdraw(app: Celery, ids: Iterable[str], queues: Iterable[str]) -> None:
    """Remove waiting tasks, and let each be known as revoked.

    Tasks that a worker holds are the worker's: it has heard of the revocation itself.
    """
    ids = list(ids)
    with _schedules(app, queues) as schedules:
        for store, options in schedules:
            for entry in filter(None, map(store.get, ids)):
                for stored in store.cancel(entry.id):
                    message = _message(options, store.queue, entry, stored)
                    if message is not None:
                        announcements.revoked(app, message)


def list_scheduled(app: Celery, queues: Iterable[str]) -> list[dict[str, Any]]:
    """What waits, in the form of Celery's `inspect scheduled`, without tasks that a worker holds.

    Arguments are shown as Celery shows them. Of arguments that are not JSON, and of tasks of leased queues, the text of
    `argsrepr` and `kwargsrepr` is shown instead.
    """
    with _schedules(app, queues) as schedules:
        return [
            _info(entry, _message(options, store.queue, entry, entry.stored), is_leased=store.queue in options.leased)
            for store, options in schedules
            for entry in store.page(count=SHOWN).entries
        ]


@contextmanager
def _schedules(app: Celery, queues: Iterable[str]) -> Iterator[list[tuple[Store, ScheduleOptions]]]:
    """The schedule of each queue over a connection of the app's pool, and the app's options; none where the broker is
    not Redis."""
    with app.connection_or_acquire() as connection:
        channel = connection.default_channel
        if isinstance(channel, Channel) and channel.options is not None:
            yield [(channel.store_of(queue), channel.options) for queue in queues]
        else:
            yield []


def _message(options: ScheduleOptions, queue: str, entry: Waiting, stored: bytes) -> dict[str, Any] | None:
    """The message of an entry; None if it cannot be read."""
    try:
        return forms.open_stored(options, queue, Claimed(entry.id, stored, entry.lane, entry.priority, entry.losses))
    except (UnknownVersionError, *forms.DAMAGE) as error:
        logger.warning("message %r of queue %r cannot be read: %s", entry.id, queue, error)
        return None


def _info(entry: Waiting, message: dict[str, Any] | None, *, is_leased: bool) -> dict[str, Any]:
    headers, properties = (_part(message, name) for name in ("headers", "properties"))
    delivery_info = properties.get("delivery_info")
    delivery_info = delivery_info if isinstance(delivery_info, Mapping) else {}
    texts = [headers.get("argsrepr")], headers.get("kwargsrepr")
    args, kwargs = texts if is_leased else _arguments(message) or texts
    return {
        "eta": _eta(entry, message, headers),
        "priority": _TIMER_PRIORITY,
        "request": {
            "id": entry.id,
            "name": headers.get("shadow") or headers.get("task"),
            "args": args,
            "kwargs": kwargs,
            "type": headers.get("task"),
            "hostname": None,
            "time_start": None,
            "acknowledged": False,
            "delivery_info": {
                "exchange": delivery_info.get("exchange"),
                "routing_key": delivery_info.get("routing_key"),
                "priority": properties.get("priority"),
                "redelivered": delivery_info.get("redelivered", False),
            },
            "worker_pid": None,
        },
    }


def _eta(entry: Waiting, message: dict[str, Any] | None, headers: Mapping[str, Any]) -> str:
    """The task's own eta, to the microsecond; or when it is due, where somebody has moved it."""
    if message is not None and eta.due_ms_of(message) == entry.due_ms:
        return str(headers["eta"])
    return datetime.fromtimestamp(min(max(entry.due_ms, _FIRST_MS), _LAST_MS) / 1000, UTC).isoformat()


def _arguments(message: dict[str, Any] | None) -> tuple[Any, Any] | None:
    """A task's arguments, if they are JSON, as the answer is; None for others."""
    if message is None:
        return None
    try:
        types = message["content-type"], message["content-encoding"]
        args, kwargs, _embed = serialization.loads(message["body"], *types, accept={"application/json"})
    except Exception:  # noqa: BLE001 - whatever is wrong with it: here it is only shown
        return None
    return args, kwargs


def _part(message: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """A part of a message; a damaged one may have none."""
    part = None if message is None else message.get(name)
    return part if isinstance(part, Mapping) else {}


def _ids(task_id: str | Iterable[str]) -> list[str]:
    return [str(identity) for identity in maybe_list(task_id) or ()]


def extend_panel() -> None:
    """Let this worker's remote control reach the schedule."""

    def queues(state: Any) -> list[str]:
        return [queue.name for queue in state.consumer.task_consumer.queues]

    def revoke(state: Any, task_id: str | Iterable[str], original: Callable[..., Any], **kwargs: Any) -> Any:
        answer = original(state, task_id, **kwargs)
        withdraw(state.app, _ids(task_id), queues(state))
        return answer

    def scheduled(state: Any, original: Callable[..., Any], **kwargs: Any) -> Any:
        return original(state, **kwargs) + list_scheduled(state.app, queues(state))

    extend_command(_REVOKE, revoke)
    extend_command(_SCHEDULED, scheduled)
