"""Rebound's queue among the queues of a Celery app."""

from __future__ import annotations

from functools import partial
from typing import Any

from celery import Celery
from celery.utils.imports import symbol_by_name
from kombu import Exchange, Queue

from .. import registry


def add_queue(app: Celery) -> None:
    """Declare rebound's queue where the app declares its own, whenever that happens."""
    if "amqp" in vars(app):
        # The app has been used already: its queues may be there.
        _declare(registry.find(app), app.amqp.queues)
        return
    amqp_cls = app.amqp_cls
    if not isinstance(amqp_cls, partial) or amqp_cls.func is not _make_amqp:
        # Celery takes any callable here. This one is pickled with the app.
        app.amqp_cls = partial(_make_amqp, amqp_cls)


def _declare(rebound: registry.RetryScheduler, queues: Any) -> Any:
    name = rebound.settings.queue
    if name not in queues:
        queues.select_add(Queue(name, Exchange(name), routing_key=name))
    return queues


def _make_amqp(amqp_cls: Any, app: Celery) -> Any:
    """The app's AMQP with rebound's queue among its queues, whenever and however often it makes them."""
    amqp = symbol_by_name(amqp_cls)(app)
    rebound, make_queues = registry.find(app), amqp.Queues
    amqp.Queues = lambda *args, **kwargs: _declare(rebound, make_queues(*args, **kwargs))
    return amqp
