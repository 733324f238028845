"""`celery rebound doctor`: finds what makes the delivery promise unsafe, and says what to do about it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import NoPermissionError, RedisError

from .. import registry
from ..broker import require_redis, shown_broker
from ..celery_conf import unknown_settings
from ..compat.versions import untested
from ..config import PREFIX, SETTING_NAMES, Settings
from ..delivery import TASK_NAME
from ..destinations.kafka import check_options as check_producer
from ..durable_task import PROMISED, DurableTask
from ..environment import misspelt_variables
from ..errors import ReboundError, UnreachableError
from ..registry import RetryScheduler
from ..schedule.port import open_schedule, server_checks
from .doctor_kafka import check_codecs, check_kafka, check_options
from .finding import NOTE, OK, PROBLEM, WARNING, Finding

#: Seconds. A worker waits for a slow Redis for up to 5 s, so a shorter lease can end while the worker still works.
_LEAST_LEASE_S = 10


#: For how many seconds another try to connect to Redis begins, and how long all of its check takes at most.
_CONNECT_S = 1.5
_REDIS_S = 5.0

#: Seconds after which it is no chance that nobody has claimed what is due.
_UNCLAIMED_S = 60


def examine(
    app: Celery,
    topics: Sequence[str] = (),
    patience_s: float = 3.0,
    options: Mapping[str, Any] | None = None,
    *,
    kafka: bool = True,
) -> list[Finding]:
    """Run all checks and return what they found.

    Args:
        app: a Celery app with Rebound, or with the schedule alone.
        topics: the Kafka topics that are consumed. Their dead letter topics are checked too.
        patience_s: the seconds that workers have to answer.
        options: the options of kafka-python that the app's consumers use.
        kafka: whether the app uses Kafka.
    """
    options = options or {}
    rebound = registry.installed(app)
    has_answered = threading.Event()  # Redis
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "packages": _packages,
        "redis": lambda: _redis(app, has_answered),
        "workers": lambda: chain(_workers(app, rebound, patience_s), _claims(app, rebound), _endpoints(app, rebound)),
    }
    if rebound is not None:
        checks["task"] = lambda: chain(_task(app), _unknown_settings(app), _settings(rebound.settings))
    if rebound is not None and kafka:
        checks["producer"] = lambda: _producer(rebound.settings)
        checks["consumers"] = lambda: check_options(options)
        checks["codecs"] = check_codecs
        checks["kafka"] = lambda: _kafka(rebound.settings, topics, options)
    if rebound is not None:
        with suppress(ReboundError):
            _ = rebound.settings  # read once, before two threads ask for them; the check of the task tells the error
    # A server that is away is waited for: both at the same time.
    servers: dict[str, _InThread] = {
        name: _InThread(partial(_found, name, checks[name])) for name in ("redis", "kafka") if name in checks
    }
    found: list[Finding] = []
    for subject, check in checks.items():
        if subject == "redis":
            found += servers[subject].wait(_REDIS_S) or [
                Finding(PROBLEM, subject, f"{shown_broker(app)} does not answer within {_REDIS_S:g} s")
            ]
        elif subject in servers:
            found += servers[subject].wait(None)
        elif subject == "workers" and not has_answered.is_set():
            found.append(Finding(WARNING, subject, "not asked, because Redis does not answer"))
        else:
            found += _found(subject, check)
    return found


def _found(subject: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check has found, or the error that ended it."""
    try:
        return list(check()) or [Finding(OK, subject, "no problem found")]
    except ReboundError as error:
        return [Finding(PROBLEM, subject, str(error))]
    except Exception as error:  # noqa: BLE001 - a check that fails must not hide the others
        return [Finding(PROBLEM, subject, f"the check failed: {type(error).__name__}: {error}")]


class _InThread:
    """A check in a thread of its own, which holds up no process that ends."""

    def __init__(self, check: Callable[[], list[Finding]]) -> None:
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=lambda: self._found.extend(check()), daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None) -> list[Finding]:
        """What it has found; nothing if it has not ended in time."""
        self._thread.join(timeout_s)
        return [] if self._thread.is_alive() else self._found


def _packages() -> Iterator[Finding]:
    for found in untested():
        # Most versions fit all the same: no reason to hold up a deployment that asks for the status of this command.
        yield Finding(WARNING, "packages", f"{found}; install {found.package}{found.tested}")


def _task(app: Celery) -> Iterator[Finding]:
    if TASK_NAME not in app.tasks:
        yield Finding(PROBLEM, "task", f"the app has no task {TASK_NAME}; was Rebound(app) called in its module?")
        return
    for durable in (task for task in app.tasks.values() if isinstance(task, DurableTask)):
        for name in PROMISED:
            value, promised = getattr(durable, name), getattr(DurableTask, name)
            if value != promised:
                yield Finding(
                    PROBLEM,
                    "task",
                    f"{durable.name} has {name}={value!r}, with which it can lose messages; leave it at {promised!r}",
                )


def _unknown_settings(app: Celery) -> Iterator[Finding]:
    for text in (*unknown_settings(app, PREFIX, SETTING_NAMES), *misspelt_variables()):
        yield Finding(WARNING, "task", f"{text}; correct its name, or remove it")


def _settings(settings: Settings) -> Iterator[Finding]:
    settings.redact.check()
    # The time-outs of Kafka and HTTP may be longer than the lease, because it is renewed during a delivery.
    if settings.lease < _LEAST_LEASE_S:
        yield Finding(
            WARNING,
            "task",
            f"rebound_lease={settings.lease:g} s: a pause of a worker or of Redis that is longer than that makes "
            f"duplicates; set it to {_LEAST_LEASE_S} or more",
        )


def _producer(settings: Settings) -> Iterator[Finding]:
    """Check the options with which retries are produced; a wrong one looks like an outage. This connects to nothing."""
    check_producer(settings.kafka_client, {**settings.kafka_options, **settings.kafka_connection()})
    security = settings.kafka_security
    if security.sends_in_the_clear:
        yield Finding(
            WARNING,
            "producer",
            f"security_protocol={security.security_protocol} sends the credentials of {security.sasl_mechanism} "
            "unencrypted; set it to SASL_SSL",
        )


def _kafka(settings: Settings, topics: Sequence[str], options: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        yield from check_kafka(settings, topics, options)
    except UnreachableError as error:
        if topics or settings.kafka_brokers != Settings().kafka_brokers:
            raise
        yield Finding(
            NOTE,
            "kafka",
            f"{error}; no setting names another address: if the app uses no Kafka, all is well",
        )


def _redis(app: Celery, has_answered: threading.Event) -> Iterator[Finding]:
    require_redis(app)
    with open_schedule(app, app.conf.task_default_queue, _CONNECT_S) as schedule:
        try:
            schedule.ping()
        except (RedisError, OSError, OperationalError) as error:
            raise UnreachableError("Redis", shown_broker(app), error) from error
        has_answered.set()
        try:
            info = schedule.server_info()
        except NoPermissionError:
            text = "this user of Redis may not call INFO, so its version, role, eviction and persistence cannot be seen"
            yield Finding(NOTE, "redis", f"{text}; allow it (ACL SETUSER ... +info), or look at them yourself")
            return
    for problem in (server_checks.role(info), server_checks.eviction(info)):
        if problem is not None:
            yield Finding(PROBLEM, "redis", problem)
    for text in server_checks.persistence(info):
        yield Finding(WARNING, "redis", text)


def _queue(app: Celery, rebound: RetryScheduler | None) -> str:
    return str(app.conf.task_default_queue) if rebound is None else rebound.settings.queue


def _claims(app: Celery, rebound: RetryScheduler | None) -> Iterator[Finding]:
    """Whether somebody claims what is due, whatever the workers answer."""
    queue = _queue(app, rebound)
    with open_schedule(app, queue) as schedule:
        unclaimed_s = schedule.unclaimed_ms() / 1000
    if unclaimed_s >= _UNCLAIMED_S:
        yield Finding(
            PROBLEM,
            "workers",
            f"messages are due in the queue {queue}, and no worker has claimed any for {unclaimed_s:,.0f} s; start a "
            "worker that consumes it",
        )


def _endpoints(app: Celery, rebound: RetryScheduler | None) -> Iterator[Finding]:
    """Whether messages wait for HTTP endpoints that are sent nothing."""
    with open_schedule(app, _queue(app, rebound)) as schedule:
        disabled = sorted(name for name, health in schedule.unhealthy().items() if health.disabled_ms)
    if disabled:
        more = f" and {len(disabled) - 3:,} more" if len(disabled) > 3 else ""
        yield Finding(
            WARNING,
            "endpoints",
            f"{len(disabled):,} HTTP endpoints are disabled, and what comes for them waits: {', '.join(disabled[:3])}"
            f"{more}; see `celery rebound endpoints ls`",
        )


def _workers(app: Celery, rebound: RetryScheduler | None, patience_s: float) -> Iterator[Finding]:
    inspect = app.control.inspect(timeout=patience_s)
    queues_of: Mapping[str, Any] = inspect.active_queues() or {}
    if not queues_of:
        yield Finding(WARNING, "workers", "no worker answers; start one: celery -A <app> worker")
        return
    tasks_of = inspect.registered() or {}
    stats_of = inspect.stats() or {}
    queue = _queue(app, rebound)
    own = set(app.amqp.queues)
    delivers = False
    for worker, queues in queues_of.items():
        names = {found["name"] for found in queues}
        # Celery adds a task's attributes to its name: "rebound.deliver [rate_limit=...]".
        knows = any(text.split(" ")[0] == TASK_NAME for text in tasks_of.get(worker, ()))
        delivers |= queue in names and (knows or rebound is None)
        if queue in names and not knows and rebound is not None:
            yield Finding(
                PROBLEM,
                "workers",
                f"{worker} consumes the queue {queue} without knowing {TASK_NAME}: it would drop retries; "
                "stop it, or start it with the app that has Rebound",
            )
        installer = "Rebound" if rebound is not None else "install_schedule"
        options = stats_of.get(worker, {}).get("broker", {}).get("transport_options", {})
        if names & own and worker in stats_of and "rebound" not in options:
            yield Finding(
                PROBLEM,
                "workers",
                f"{worker} consumes {', '.join(sorted(names & own))} without delayed delivery: it never claims waiting "
                f"messages, and holds countdowns in its memory; start it with the app that has {installer}",
            )
    if not delivers:
        yield Finding(
            PROBLEM,
            "workers",
            f"no worker consumes the queue {queue}, so no {'task' if rebound is None else 'retry'} of it is delivered; "
            "start one with it",
        )
