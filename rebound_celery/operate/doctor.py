"""`celery rebound doctor`: what of an app's surroundings makes the promise unsafe, and what to do about it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery import Celery

from ..config import Settings
from ..consumer.connect import SHARED_OPTIONS
from ..delivery.task import PROMISED, DeliverTask
from ..delivery.task_message import TASK_NAME
from ..errors import ReboundError
from ..message import dead_letter_topic
from ..schedule import redis_risks

PROBLEM = "problem"
WARNING = "warning"
OK = "ok"

#: Packages whose insides rebound reaches into, so that it was tested with these versions only.
_TESTED = ("celery", "kombu", "kafka-python", "redis")

_ADMIN_TIMEOUT_MS = 8_000
_AUTO_CREATE = "auto.create.topics.enable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: "problem" (messages may be lost, or are not delivered), "warning", or "ok".
        subject: what was looked at.
        text: what was found, and what to do.
    """

    level: str
    subject: str
    text: str


def examine(app: Celery, topics: Sequence[str] = (), patience_s: float = 3.0) -> list[Finding]:
    """Look at everything.

    Args:
        app: a Celery app with Rebound.
        topics: Kafka topics that are consumed; their dead letter topics are looked for.
        patience_s: how long workers have to answer.
    """
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "packages": _packages,
        "task": lambda: _task(app),
        "redis": lambda: _redis(app),
        "workers": lambda: _workers(app, patience_s),
        "kafka": lambda: _kafka(app.rebound.settings, topics),
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


def _redis(app: Celery) -> Iterator[Finding]:
    app.rebound.check_redis()
    with app.connection_or_acquire() as connection:
        channel = connection.default_channel
        if getattr(channel, "rebound", None) is None:
            yield Finding(
                PROBLEM,
                "redis",
                f"the broker {connection.as_uri()} has no delayed delivery: "
                "countdowns wait in the workers' memory; use a Redis broker",
            )
            return
        info = channel.store_of(app.conf.task_default_queue).server_info()
    for problem in (redis_risks.role(info), redis_risks.eviction(info)):
        if problem is not None:
            yield Finding(PROBLEM, "redis", problem)
    for text in redis_risks.persistence(info):
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


def _kafka(settings: Settings, topics: Sequence[str]) -> Iterator[Finding]:
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    from ..errors import UnreachableError

    brokers = ",".join(settings.kafka_brokers)
    options = {k: v for k, v in settings.kafka_options.items() if k.startswith(SHARED_OPTIONS)}
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=list(settings.kafka_brokers),
            bootstrap_timeout_ms=_ADMIN_TIMEOUT_MS,
            request_timeout_ms=_ADMIN_TIMEOUT_MS,
            **options,
        )
    except KafkaError as error:
        raise UnreachableError("Kafka", brokers, error) from error
    try:
        present = set(admin.list_topics())
        letters = {topic: dead_letter_topic(topic, settings.dead_letter_suffix).topic for topic in topics}
        for topic in topics:
            if topic not in present:
                yield Finding(WARNING, "kafka", f"there is no topic {topic}")
        missing = sorted(letter for letter in letters.values() if letter not in present)
        if missing and (creates := _creates_topics(admin)) is not True:
            level, why = (
                (PROBLEM, "the broker creates none by itself: dead letters would wait in Redis")
                if creates is False
                else (WARNING, "the broker does not say whether it creates one when it is needed")
            )
            yield Finding(level, "kafka", f"there is no {', '.join(missing)}, and {why}; create it")
    finally:
        admin.close()


def _creates_topics(admin: Any) -> bool | None:
    """Whether the broker creates a topic when something is produced to it; None where it does not say."""
    from kafka.admin import ConfigFilterType, ConfigResource, ConfigResourceType
    from kafka.errors import KafkaError

    try:
        node = next(iter(admin.describe_cluster()["brokers"]))["broker_id"]
        resource = ConfigResource(ConfigResourceType.BROKER, str(node), [_AUTO_CREATE])
        answer = admin.describe_configs([resource], config_filter=ConfigFilterType.ALL)
    except KafkaError:
        return None
    for resources in answer.values():
        for configs in resources.values():
            if _AUTO_CREATE in configs:
                return str(configs[_AUTO_CREATE]["value"]).lower() != "false"
    return None
