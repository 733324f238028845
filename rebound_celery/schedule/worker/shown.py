"""Shows what waits in the schedule as Celery's `inspect` shows what a worker holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, tzinfo
from typing import Any

from celery import Celery
from kombu import serialization

from ...errors import UnknownVersionError
from ..options import ScheduleOptions
from ..store.store import Store
from ..store.values import Claimed, Waiting
from ..transport import eta, forms
from ..transport.channel import Channel

#: How many entries `inspect scheduled` shows of each queue, the next due first: the answer is one message.
SHOWN = 1_000

#: What Celery's own `inspect scheduled` says of each: the priority among the timers of a worker. That of the message is
#: in its `delivery_info`.
_TIMER_PRIORITY = 6

#: The first and the last second that a datetime can name, in Unix milliseconds: `datetime.max` is rounded up past it.
_FIRST_MS, _LAST_MS = -62_135_596_800_000, 253_402_300_799_000

logger = logging.getLogger(__name__)


def _always(_store: Store) -> bool:
    return True


def list_scheduled(
    app: Celery, queues: Iterable[str], answers: Callable[[Store], bool] = _always
) -> list[dict[str, Any]]:
    """What waits, in the form of Celery's `inspect scheduled`, without tasks that a worker holds.

    Arguments are shown as Celery shows them. Of arguments that are not JSON, and of tasks of leased queues, the text of
    `argsrepr` and `kwargsrepr` is shown instead. Where more waits than `SHOWN`, the last entry of a queue says so.

    Args:
        app: the app.
        queues: the queues to show.
        answers: tells whether it is for this process to show a queue.
    """
    listed = []
    with schedules(app, queues) as found:
        for store, options in filter(lambda each: answers(each[0]), found):
            entries = store.page(count=SHOWN + 1).entries
            listed += [
                {
                    "eta": _eta(entry, message, app.timezone),
                    "priority": _TIMER_PRIORITY,
                    "request": _info(entry, message, is_leased=store.queue in options.leased),
                }
                for entry in entries[:SHOWN]
                for message in (message_of(options, store.queue, entry, entry.stored),)
            ]
            if len(entries) > SHOWN:
                listed.append(_rest(store, entries[SHOWN], app.timezone))
    return listed


def _rest(store: Store, first: Waiting, zone: tzinfo) -> dict[str, Any]:
    """The entry that stands for all that is not shown."""
    waiting = store.counts().waiting
    text = f"({waiting - SHOWN:,} more wait in the queue {store.queue}; {SHOWN:,} are shown)"
    logger.warning("inspect scheduled shows %s of the %s messages that wait in %r", f"{SHOWN:,}", waiting, store.queue)
    request = {**_info(first, None, is_leased=True), "id": None, "name": text, "type": text, "args": [], "kwargs": {}}
    return {"eta": _eta(first, None, zone), "priority": _TIMER_PRIORITY, "request": request}


def query_waiting(
    app: Celery, queues: Iterable[str], ids: Collection[str], answers: Callable[[Store], bool] = _always
) -> dict[str, Any]:
    """Those of these tasks that wait, in the form of Celery's `inspect query_task`; see `list_scheduled`."""
    found: dict[str, Any] = {}
    with schedules(app, queues) as each:
        for store, options in each:
            entries = filter(None, map(store.get, known_ids(store, options, ids)))
            waiting = [entry for entry in entries if not entry.leased]
            if not waiting or not answers(store):
                continue
            for entry in waiting:
                message = message_of(options, store.queue, entry, entry.stored)
                found[entry.id] = ("scheduled", _info(entry, message, is_leased=store.queue in options.leased))
    return found


def known_ids(store: Store, options: ScheduleOptions, ids: Iterable[str]) -> list[str]:
    """The ids under which a queue holds what people call by these ids."""
    form = options.leased.get(store.queue)
    names = list(ids)
    if form is not None:
        names += [name for identity in ids for name in form.task_ids_of(identity)]
    return store.known(names)


@contextmanager
def schedules(app: Celery, queues: Iterable[str]) -> Iterator[list[tuple[Store, ScheduleOptions]]]:
    """The schedule of each queue over a connection of the app's pool, and the app's options; none where the broker is
    not Redis."""
    with app.connection_or_acquire() as connection:
        channel = connection.default_channel
        if isinstance(channel, Channel) and channel.options is not None:
            yield [(channel.store_of(queue), channel.options) for queue in queues]
        else:
            yield []


def message_of(options: ScheduleOptions, queue: str, entry: Waiting, stored: bytes) -> dict[str, Any] | None:
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
    }


def _eta(entry: Waiting, message: dict[str, Any] | None, zone: tzinfo) -> str:
    """When it is due; to the microsecond, unless somebody has moved it."""
    moment = None if message is None else eta.moment_of(message)
    if moment is None or eta.due_ms(moment) != entry.due_ms:
        moment = datetime.fromtimestamp(min(max(entry.due_ms, _FIRST_MS), _LAST_MS) / 1000, UTC)
    try:
        return moment.astimezone(zone).isoformat()
    except (OverflowError, ValueError):
        return moment.isoformat()  # the first and the last day of the calendar


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
