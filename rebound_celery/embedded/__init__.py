"""Kafka and Redis servers as child processes, for the demo, the examples, the tests and the benchmarks.

The servers come from wheels (the extra `demo`). They keep everything in memory and listen on 127.0.0.1 only. `stop()`
ends a server and removes its files. On Linux a server also ends when this process ends, even by SIGKILL. On other
systems only `stop()` ends it. The servers are not for production.
"""

from __future__ import annotations

from .kafka import EmbeddedKafka, kafka_answers
from .ports import HOST, free_port, is_free
from .processes import end_group, spawn
from .redis import EmbeddedRedis, redis_answers, redis_options
from .server import MissingExtraError, Server, ServerError
from .topics import create_topics

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
