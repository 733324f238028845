"""The processes of a run: servers, consumer, worker and Flower, started and stopped in the right order."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import uuid
from typing import Any

from ..config import parse_brokers
from ..embedded import HOST, EmbeddedKafka, EmbeddedRedis, MissingExtraError, Server, create_topics, free_port, is_free
from ..kafka_security import KafkaSecurity, variables
from .app import READY
from .child import Child
from .consume import command
from .names import Names
from .options import DemoOptions
from .plan import Plan
from .stored import check

FLOWER_PORT = 5555

#: Seconds that the worker or the consumer may take to finish its work.
STOP_DEADLINE_S = 20.0

#: Seconds that Flower may take, which has nothing to finish.
_QUICK_STOP_S = 5.0

#: Flower's default leaves out `args`, which describe a retry.
FLOWER_COLUMNS = "name,args,state,result,exception,retries,received,started,runtime,worker,uuid"

_CELERY = (sys.executable, "-m", "celery", "--quiet", "-A", "rebound_celery.demo.app")


class Parts:
    """Starts and stops the processes of a run.

    Attributes:
        kafka: `host:port` of the Kafka broker.
        security: the options of Kafka clients for SASL and TLS, which the environment names for the user's own broker.
        redis: the URL of Redis.
        names: the names of topics, group and queue.
        flower_url: the URL of Flower's page of tasks while it runs, else None.
    """

    def __init__(self, options: DemoOptions, plan: Plan) -> None:
        self._options = options
        self._plan = plan
        self._servers: list[Server] = []
        self._consumer: Child | None = None
        self._worker: Child | None = None
        self._flower: Child | None = None
        self._reported: set[str] = set()
        self._flower_port = FLOWER_PORT
        self.kafka = options.kafka or ""
        self.security: dict[str, Any] = {}
        self.redis = options.redis or ""
        self.names = Names.for_run(
            uuid.uuid4().hex[:8], own_kafka=options.kafka is None, own_redis=options.redis is None
        )

    # Starting

    def start_servers(self) -> None:
        """Start the servers that the options do not name, check the named ones, and create the topics.

        Raises:
            ReboundError: with one line that says what is missing or cannot be reached.
        """
        if self._options.flower and importlib.util.find_spec("flower") is None:
            raise MissingExtraError("Flower", "No module named 'flower'")
        if self._options.redis is None:
            redis = EmbeddedRedis()
            self._servers.append(redis)
            self.redis = redis.start().url
        if self._options.kafka is None:
            kafka = EmbeddedKafka()
            self._servers.append(kafka)
            self.kafka = kafka.start().address
        else:
            brokers = parse_brokers(self.kafka)
            self.security = KafkaSecurity.read(None, os.environ).options(brokers, brokers)
        check(self.redis)
        create_topics(self.kafka, self.names.topics, options=self.security)

    def start_worker_and_consumer(self) -> None:
        arguments = [
            "--pool",
            self._options.worker_pool,
            "--concurrency",
            "8",
            "--loglevel",
            "WARNING",
            "--hostname",
            "demo@%h",
        ]
        if self._options.redis is not None:
            # On a Redis that others use too, the queue named `celery` belongs to another app.
            arguments += ["--queues", self.names.queue]
        worker = [*_CELERY, "worker", *arguments, "--without-gossip", "--without-mingle"]
        self._worker = Child("the worker", worker, self._environment)
        consumer = command(
            self._plan,
            topic=self.names.topic,
            group=self.names.group,
            results=self.names.results,
            base_delay=self._options.policy.base_delay,
        )
        self._consumer = Child("the consumer", consumer, self._environment)

    def worker_is_ready(self) -> bool:
        return self._worker is not None and READY in self._worker.log

    def start_flower(self) -> None:
        """Start Flower. The worker must run before, because Flower asks it for its queues at the start."""
        self._flower_port = FLOWER_PORT if is_free(FLOWER_PORT) else free_port()
        arguments = [
            "--address=" + HOST,
            f"--port={self._flower_port}",
            "--logging=warning",
            f"--tasks_columns={FLOWER_COLUMNS}",
        ]
        self._flower = Child("Flower", [*_CELERY, "flower", *arguments], self._environment)

    def flower_is_settled(self) -> bool:
        """Whether Flower answers, or has ended."""
        if self._flower is None or not self._flower.is_running:
            return True
        try:
            with socket.create_connection((HOST, self._flower_port), timeout=1):
                return True
        except OSError:
            return False

    @property
    def flower_url(self) -> str | None:
        if self._flower is None or not self._flower.is_running:
            return None
        return f"http://{HOST}:{self._flower_port}/tasks"

    def flower_ended(self) -> str | None:
        """A text that says how Flower has ended by itself, or None while it runs."""
        return None if self._flower is None or self._flower.is_running else self._flower.how_it_ended()

    @property
    def _environment(self) -> dict[str, str]:
        named = variables() if self._options.kafka is not None else ()
        return {
            **{name: os.environ[name] for name in named if name in os.environ},
            "CELERY_BROKER_URL": self.redis,
            "REBOUND_KAFKA_BROKERS": self.kafka,
            "REBOUND_QUEUE": self.names.queue,
        }

    # Watching

    def newly_ended(self) -> list[str]:
        """A text for each part that has ended by itself since the last call."""
        found = []
        for child in (self._consumer, self._worker, self._flower):
            if child is not None and not child.is_running and child.name not in self._reported:
                self._reported.add(child.name)
                found.append(child.how_it_ended())
        for server in self._servers:
            if not server.is_running and server.name not in self._reported:
                self._reported.add(server.name)
                found.append(f"{server.name} has ended by itself")
        return found

    def is_broken(self) -> bool:
        """Whether a part has ended that every message needs."""
        children = (self._consumer, self._worker)
        return any(child is not None and not child.is_running for child in children) or any(
            not server.is_running for server in self._servers
        )

    def kafka_is_gone(self) -> bool:
        """Whether the embedded broker has ended, and its memory with it."""
        return any(isinstance(server, EmbeddedKafka) and not server.is_running for server in self._servers)

    # Stopping

    def stop_consumer(self, deadline_s: float = STOP_DEADLINE_S) -> str | None:
        """Stop the consumer, which may still store retries. Returns a text if it had to be killed."""
        return None if self._consumer is None else self._consumer.stop(deadline_s)

    def stop_worker(self, deadline_s: float = STOP_DEADLINE_S) -> str | None:
        """Stop the worker, which may still deliver retries. Returns a text if it had to be killed."""
        return None if self._worker is None else self._worker.stop(deadline_s)

    def close(self) -> None:
        """Stop Flower and the servers, after the parts that use them."""
        if self._flower is not None:
            self._flower.stop(_QUICK_STOP_S)
        for server in reversed(self._servers):
            # They have nothing to save, and Kafka takes seconds for an orderly end.
            server.kill()
            server.stop()
