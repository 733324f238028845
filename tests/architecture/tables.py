"""The tables that `rules.py` checks: the packages, the imports between them, and the limits."""

from __future__ import annotations

from collections.abc import Mapping

MAX_LINES = 300
MAX_PUBLIC_NAMES = 23

#: The parts that a message passes, in that order.
STAGES = ("consumer", "schedule", "delivery", "destinations", "dead_letters")

#: What every stage may import: values, decisions and time. None of it imports a stage.
COMMON = (
    "caching",
    "clock",
    "config",
    "errors",
    "health",
    "http_options",
    "limits",
    "message",
    "message.*",
    "no_thread",
    "policy",
    "policy.*",
    "redaction",
    "selection",
    "shown",
    "stopping",
)

#: The typed interfaces at which stages meet.
PORTS = ("registry", "schedule", "schedule.port", "destinations")

#: Part -> what it may import of the rest of the package: module names; `x.*` means everything inside x, and a bare `x`
#: means only what the package x itself offers.
ALLOWED: Mapping[str, tuple[str, ...]] = {
    # what everyone shares
    "errors": ("shown",),
    "shown": (),
    "clock": (),
    "caching": (),
    "no_thread": (),
    "stopping": (),
    "health": ("clock",),
    "broker": ("errors", "shown"),
    "kafka_common": (),
    "kafka_addresses": ("errors", "message.*", "shown"),
    "kafka_security": ("errors", "kafka_addresses", "kafka_tokens"),
    "kafka_tokens": ("clock",),
    "redaction": ("errors", "message", "policy", "policy.*"),
    "scheduled": ("errors",),
    "selection": ("errors", "message", "message.*", "policy", "policy.*"),
    "policy": ("caching", "errors", "shown"),
    "message": ("caching", "errors", "policy", "policy.*", "shown"),
    "limits": ("errors",),
    "http_options": ("errors", "message.http_url"),
    "config": (
        "errors",
        "http_options",
        "kafka_addresses",
        "kafka_security",
        "limits",
        "message",
        "message.*",
        "policy",
        "policy.*",
        "redaction",
        "shown",
    ),
    "environment": ("config", "kafka_security"),
    "registry": ("config", "errors", "message", "message.*", "other_consumers", "policy", "requests", "scheduled"),
    "celery_conf": ("shown_settings",),
    "shown_settings": ("shown", "compat", "compat.celery_*"),
    "copies": (),
    "current_app": ("other_consumers", "policy", "registry", "requests", "scheduled", "values"),
    "values": ("errors", "message"),
    "other_consumers": (*COMMON, "registry", "values"),
    "requests": (
        "values",
        "caching",
        "clock",
        "config",
        "errors",
        "limits",
        "message",
        "message.*",
        "policy",
        "policy.*",
        "shown",
    ),
    "compat": ("errors",),
    # the stages
    "consumer": (*COMMON, "kafka_common", "registry", "compat", "compat.celery_*", "compat.kafka_*"),
    # It is usable alone: it knows nothing of Kafka, messages or policies. `schedule` is also checked layer by layer.
    "schedule": ("broker", "clock", "errors", "health", "stopping", "compat", "compat.celery_*", "compat.kombu_*"),
    "delivery": (
        *COMMON,
        "broker",
        "celery_conf",
        "destinations",
        "registry",
        "schedule.port",
        "compat",
        "compat.celery_*",
        "compat.kombu_*",
    ),
    "destinations": (*COMMON, "environment", "kafka_tokens", "schedule.port", "compat", "compat.kafka_*"),
    "endpoints": (*COMMON, "requests", "schedule.port"),
    "dead_letters": (
        *COMMON,
        "compat.kafka_*",
        "kafka_common",
        "registry",
        "schedule.port",
        "values",
    ),
    # beside the flow, for operators
    "pending": (
        *COMMON,
        "broker",
        "delivery.lanes",
        "delivery.plainly",
        "delivery.steering",
        "registry",
        "schedule.port",
    ),
    # what puts the stages together, or shows them
    "app": (
        *COMMON,
        "celery_conf",
        "copies",
        "consumer",
        "environment",
        "operator_views",
        "other_consumers",
        "registry",
        "requests",
        "schedule",
        "schedule.port",
        "scheduled",
        "scheduling",
        "values",
        "delivery",
        "delivery.*",
        "destinations",
        "destinations.*",
        "endpoints.*",
    ),
    "operator_views": (
        *COMMON,
        "dead_letters",
        "broker",
        "delivery.lanes",
        "delivery.plainly",
        "delivery.publisher",
        "delivery.revival",
        "delivery.steering",
        "endpoints",
        "pending",
        "schedule.port",
    ),
    "scheduling": (*COMMON, "celery_conf", "delivery", "delivery.*", "requests", "scheduled"),
    "__init__": (*COMMON, "app", "consumer", "current_app", "requests", "schedule"),
    "operate": (
        *COMMON,
        "app",
        "broker",
        "celery_conf",
        "compat",
        "compat.kafka_python",
        "compat.versions",
        "consumer",
        "environment",
        "dead_letters",
        "delivery",
        "delivery.steering",
        "demo.command",
        "destinations",
        "destinations.kafka",
        "kafka_common",
        "pending",
        "registry",
        "requests",
        "schedule",
        "schedule.port",
    ),
    "embedded": ("clock", "errors"),
    # In memory it takes the place of Redis, Kafka and the threads, and calls what they would call.
    "testing": (
        "",
        *COMMON,
        "app",
        "consumer",
        "consumer.*",
        "delivery",
        "delivery.*",
        "destinations",
        "destinations.dead_set",
        "embedded",
        "registry",
        "schedule.port",
        "values",
    ),
    "demo": ("", *COMMON, "kafka_security", "app", "consumer", "embedded", "registry", "schedule.port"),
}

#: Layer of the schedule -> what it may import of the schedule, beside itself. `store` <- `transport` <- `worker`.
LAYERS: Mapping[str, tuple[str, ...]] = {
    "schedule.options": ("schedule.store.values",),
    "schedule.port": (
        "schedule.options",
        "schedule.store",
        "schedule.store.*",
        "schedule.transport",
        "schedule.transport.*",
        # It tells of the end of tasks as a worker does.
        "schedule.worker.revoked",
    ),
    "schedule.store": (),
    "schedule.transport": ("schedule.options", "schedule.store", "schedule.store.*", "schedule.native_threads"),
    "schedule.worker": (
        "schedule.native_threads",
        "schedule.options",
        "schedule.store",
        "schedule.store.*",
        "schedule.transport",
        "schedule.transport.*",
    ),
}

#: Foreign package -> the modules that may import it. A package that is not named may be imported anywhere.
FOREIGN: Mapping[str, tuple[str, ...]] = {
    "kafka": (
        "compat.kafka_*",
        "consumer.*",
        "dead_letters.topic_reader",
        "demo.*",
        "destinations.kafka.*",
        "embedded.topics",
        "kafka_common",
        "kafka_tokens",
        "operate.doctor_kafka",
    ),
    "faststream": ("other_consumers.faststream",),
    "confluent_kafka": ("compat.*", "destinations.kafka.*"),
    "urllib3": ("destinations.*", "operate.*", "demo.*"),
    # The schedule's port raises what redis-py raises, and the publisher turns it into an error of rebound's own.
    "redis": ("schedule.*", "operate.*", "demo.*", "compat.*", "delivery.plainly"),
    # The store keeps bytes in Redis and would do so without Celery. Messages and policies are plain values.
    "celery": (
        "app",
        "celery_conf",
        "copies",
        "compat.*",
        "consumer.*",
        "current_app",
        "dead_letters.*",
        "delivery.*",
        "demo.*",
        "endpoints.*",
        "operate.*",
        "operator_views",
        "registry",
        "schedule",
        "schedule.port",
        "schedule.transport.*",
        "schedule.worker.*",
        "scheduled",
        "scheduling",
        "testing.*",
    ),
    "kombu": (
        "app",
        "broker",
        "compat.*",
        "delivery.*",
        "demo.*",
        "destinations.kafka.*",
        "errors",
        "operate.*",
        "schedule.port",
        "schedule.transport.*",
        "schedule.worker.*",
        "values",
    ),
}

#: Where the process' environment may be read.
ENVIRONMENT_READERS = frozenset({"config", "environment", "demo", "embedded"})

#: Libraries, and people, that own objects with which rebound has no typed interface.
FOREIGN_OWNERS = (
    "billiard",
    "celery",
    "click",
    "confluent-kafka",
    "eventlet",
    "flower",
    "gevent",
    "kafka-python",
    "kombu",
    "redis-py",
    "the user",
    "urllib3",
)
