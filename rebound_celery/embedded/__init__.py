"""Kafka and Redis servers from wheels, as child processes: for the demo, the examples, tests and benchmarks."""

from __future__ import annotations

from .servers import (
    HOST,
    EmbeddedKafka,
    EmbeddedRedis,
    MissingExtraError,
    Server,
    ServerError,
    create_topics,
    end_group,
    free_port,
    is_free,
    kafka_answers,
    redis_answers,
    redis_options,
    spawn,
)

__all__ = [
    "HOST",
    "EmbeddedKafka",
    "EmbeddedRedis",
    "MissingExtraError",
    "Server",
    "ServerError",
    "create_topics",
    "end_group",
    "free_port",
    "is_free",
    "kafka_answers",
    "redis_answers",
    "redis_options",
    "spawn",
]
