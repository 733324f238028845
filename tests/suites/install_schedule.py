"""Puts the schedule under every Celery app of this process, or for kombu's suite under every connection."""

from __future__ import annotations

import os
from functools import wraps
from typing import Any

from celery import Celery
from kombu import Connection

from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.worker.installation import install_schedule

#: The variable that names a file. Each call that stores messages in the schedule adds one byte to this file, which
#: proves that the schedule was in use.
ENQUEUES = "SUITES_ENQUEUES"
#: `celery` (through the app, as users have it) or `kombu` (that suite makes no apps).
SUITE = "SUITES_SUITE"


def install() -> None:
    if os.environ[SUITE] == "kombu":
        _after_init(Connection, _give_schedule)
    else:
        _after_init(Celery, install_schedule)
    _count_enqueues(os.environ[ENQUEUES])


def _after_init(cls: type, act: Any) -> None:
    init = cls.__init__

    @wraps(init)
    def with_act(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        act(self)

    cls.__init__ = with_act


#: This app registers the transport and has the token of an installation.
_app = Celery(set_as_current=False)
install_schedule(_app)


def _give_schedule(connection: Connection) -> None:
    token = _app._rebound_schedule.token
    connection.transport_options = {"rebound": token, **(connection.transport_options or {})}


def _count_enqueues(file: str) -> None:
    enqueue = Store.enqueue

    @wraps(enqueue)
    def counted(*args: Any, **kwargs: Any) -> Any:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, b".")
        os.close(descriptor)
        return enqueue(*args, **kwargs)

    Store.enqueue = counted
