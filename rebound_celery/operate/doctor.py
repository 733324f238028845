"""`celery rebound doctor`: what of an app's surroundings makes the promise unsafe, and what to do about it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from celery import Celery

from ..config import Settings
from ..delivery.form import TASK_NAME
from ..delivery.task import PROMISED, DeliverTask
from ..errors import ReboundError
from ..schedule.port import open_schedule, server_checks
from .doctor_kafka import check_kafka, check_options
from .finding import OK, PROBLEM, WARNING, Finding

#: Packages whose insides rebound reaches into, so that it was tested with these versions only.
_TESTED = ("celery", "kombu", "kafka-python", "redis")

#: Seconds. A shorter lease ends under a worker that waits for a slow Redis, which it does for 5 s at most.
_LEAST_LEASE_S = 10


def examine(
    app: Celery, topics: Sequence[str] = (), patience_s: float = 3.0, options: Mapping[str, Any] | None = None
) -> list[Finding]:
    """Look at everything.

    Args:
        app: a Celery app with Rebound.
        topics: Kafka topics that are consumed; their dead letter topics are looked for.
        patience_s: how long workers have to answer.
        options: kafka-python's options of the app's consumers.
    """
    options = options or {}
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "packages": _packages,
        "task": lambda: chain(_task(app), _settings(app.rebound.settings)),
        "redis": lambda: _redis(app),
        "workers": lambda: _workers(app, patience_s),
        "consumers": lambda: check_options(options),
        "kafka": lambda: check_kafka(app.rebound.settings, topics, options),
    }
    found = []
    for subject, check in checks.items():
        try:
            found += list(check()) or [Finding(OK, subject, "nothing to complain of")]
        except ReboundError as error:
            found.append(Finding(PROBLEM, subject, str(error)))
        except Exception as error:  # noqa: BLE001 - what cannot be looked at must not hide the rest
            found.append(Finding(PROBLEM, subject, f"could not be looked at: {type(error).__name__}: {error}"))
    return found


def _packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in importlib.metadata.requires("rebound-celery") or ()]
    for requirement in requirements:
        if requirement.name not in _TESTED or requirement.marker is not None:
            continue
        version = importlib.metadata.version(requirement.name)
        if version not in requirement.specifier:
            yield Finding(
                PROBLEM,
                "packages",
                f"{requirement.name} {version} is not among the versions that rebound was tested with; "
                f"install {requirement.name}{requirement.specifier}",
            )


def _task(app: Celery) -> Iterator[Finding]:
    task = app.tasks.get(TASK_NAME)
    if task is None:
        yield Finding(PROBLEM, "task", f"the app has no task {TASK_NAME}; was Rebound(app) called in its module?")
        return
    for name in PROMISED:
        value, promised = getattr(task, name), getattr(DeliverTask, name)
        if value != promised:
            yield Finding(
                PROBLEM,
                "task",
                f"{TASK_NAME} has {name}={value!r}, with which it can lose messages; leave it at {promised!r}",
            )


def _settings(settings: Settings) -> Iterator[Finding]:
    # The time-outs of Kafka and HTTP may be longer than the lease: it is renewed while a delivery goes on.
    if settings.lease < _LEAST_LEASE_S:
        yield Finding(
            WARNING,
            "task",
            f"rebound_lease={settings.lease:g} s: a worker or a Redis that stands still for longer than that makes "
            f"duplicates; set it to {_LEAST_LEASE_S} or more",
        )


def _redis(app: Celery) -> Iterator[Finding]:
    app.rebound.check_redis()
    with open_schedule(app, app.conf.task_default_queue) as schedule:
        info = schedule.server_info()
    for problem in (server_checks.role(info), server_checks.eviction(info)):
        if problem is not None:
            yield Finding(PROBLEM, "redis", problem)
    for text in server_checks.persistence(info):
        yield Finding(WARNING, "redis", text)


def _workers(app: Celery, patience_s: float) -> Iterator[Finding]:
    inspect = app.control.inspect(timeout=patience_s)
    queues_of: Mapping[str, Any] = inspect.active_queues() or {}
    if not queues_of:
        yield Finding(WARNING, "workers", "no worker answers; start one: celery -A <app> worker")
        return
    tasks_of = inspect.registered() or {}
    stats_of = inspect.stats() or {}
    queue = app.rebound.settings.queue
    own = set(app.amqp.queues)
    delivers = False
    for worker, queues in queues_of.items():
        names = {found["name"] for found in queues}
        # The names come with a task's attributes behind them: "rebound.deliver [rate_limit=...]".
        knows = any(text.split(" ")[0] == TASK_NAME for text in tasks_of.get(worker, ()))
        delivers |= queue in names and knows
        if queue in names and not knows:
            yield Finding(
                PROBLEM,
                "workers",
                f"{worker} consumes the queue {queue} without knowing {TASK_NAME}: it would drop retries; "
                "stop it, or start it with the app that has Rebound",
            )
        options = stats_of.get(worker, {}).get("broker", {}).get("transport_options", {})
        if names & own and worker in stats_of and "rebound" not in options:
            yield Finding(
                PROBLEM,
                "workers",
                f"{worker} consumes {', '.join(sorted(names & own))} without delayed delivery: it never looks for "
                "what waits, and holds countdowns in its memory; start it with the app that has Rebound",
            )
    if not delivers:
        yield Finding(
            PROBLEM, "workers", f"no worker consumes the queue {queue}, so no retry is delivered; start one with it"
        )
