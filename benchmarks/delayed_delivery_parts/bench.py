"""The bench: servers, workers, sizes and rounds."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Self, TypeVar

from kafka import KafkaAdminClient

from rebound_celery.embedded import EmbeddedKafka, create_topics
from tests.kafka_server.apache import ApacheKafka
from tests.processes import Process
from tests.servers import local_redis

from .apps import READY
from .load import PARTITIONS

T = TypeVar("T")

#: The Kafka client libraries, each with the module that it needs.
KAFKA_CLIENTS = {"kafka-python": "kafka", "confluent": "confluent_kafka"}


class FastApacheKafka(ApacheKafka):
    """Apache Kafka with Java's full compiler. The tests' broker switches it off to start sooner."""

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "_JAVA_OPTIONS": "-XX:TieredStopAtLevel=4"}


class Bench:
    """Starts the servers and workers of the measurements, and ends them with the context.

    Args:
        wanted: the names of the rows to measure.
        full: whether to use the sizes of the goals in place of those of the short run.
        factor: the factor for every size.
        rounds: how many times each pair is measured; None means a number that fits the size.
        kafka: the brokers to use; None starts a server.
        apache: whether to start Apache Kafka in place of the embedded broker.
        kafka_client: the only client library to measure with; None means each, and the app's default elsewhere.
    """

    def __init__(
        self,
        *,
        wanted: Sequence[str],
        full: bool = False,
        factor: float = 1.0,
        rounds: int | None = None,
        kafka: str | None = None,
        apache: bool = False,
        kafka_client: str | None = None,
    ):
        self.wanted = frozenset(wanted)
        self.full = full
        self._factor = factor
        self._rounds = rounds
        self._kafka = kafka
        self._is_foreign = kafka is not None
        self._kafka_server: EmbeddedKafka | ApacheKafka = FastApacheKafka() if apache else EmbeddedKafka()
        self.kafka_client = kafka_client
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.directory = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="rebound-")))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def kafka(self) -> str:
        """The Kafka brokers. They are started at the first use."""
        if self._kafka is None:
            self._kafka = self._open.enter_context(self._kafka_server).address
        return self._kafka

    @property
    def is_embedded(self) -> bool:
        """Whether Kafka is the embedded broker."""
        return isinstance(self._kafka_server, EmbeddedKafka) and not self._is_foreign

    @property
    def kafka_pid(self) -> int | None:
        """The process id of the Kafka server; None if this bench did not start it."""
        return self._kafka_server.pid

    @property
    def rounds(self) -> int:
        """How many times a pair with workers is measured. Workers take seconds to start."""
        return self._rounds or (3 if self.full else 1)

    @property
    def quick_rounds(self) -> int:
        """How many times a pair without workers is measured."""
        return self._rounds or (7 if self.full else 5)

    def alternate(self, rounds: int, **ways: Callable[[], T]) -> dict[str, list[T]]:
        """Run all ways in each round. Each round begins with another way. Return the results of each way by round."""
        results: dict[str, list[T]] = {name: [] for name in ways}
        for number in range(rounds):
            for name in list(ways) if number % 2 == 0 else reversed(ways):
                results[name].append(ways[name]())
        return results

    def missing_client(self, client: str) -> str:
        """Return the reason why a Kafka client library is not measured; empty if it can be measured."""
        if self.kafka_client not in {None, client}:
            return f"--kafka-client says {self.kafka_client}"
        if find_spec(KAFKA_CLIENTS[client]) is None:
            return f"{KAFKA_CLIENTS[client].replace('_', '-')} is not installed"
        return ""

    def new_topic(self) -> str:
        """Return the name of a new topic. The bench removes it at its end, also from a broker that goes on."""
        topic = f"delayed-delivery-{os.urandom(4).hex()}"
        create_topics(self.kafka, {topic: PARTITIONS})
        if self._is_foreign:
            self._open.callback(delete_topic, self.kafka, topic)
        return topic

    def new_notes(self) -> Path:
        """Return a file in which workers note the times of their work."""
        return self.directory / f"notes-{os.urandom(4).hex()}"

    def count(self, short: int, full: int, least: int = 20) -> int:
        """Return the size for this run: `short` or `full`, times the factor, and at least `least`."""
        return max(least, round((full if self.full else short) * self._factor))

    def seconds(self, short: float, full: float) -> float:
        """Return the time to measure in this run, in seconds."""
        return (full if self.full else short) * min(1.0, max(self._factor, 0.5))

    @contextlib.contextmanager
    def redis(self) -> Iterator[str]:
        """Yield the URL of a new Redis server."""
        with local_redis() as server:
            yield server.url

    @contextlib.contextmanager
    def worker(
        self,
        kind: str,
        url: str,
        *options: str,
        kafka: str = "",
        events: bool = False,
        prefetch: int = 4,
        notes: Path | None = None,
        kafka_client: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Iterator[Process]:
        """A ready worker process of `make_app(url, kind, ...)`.

        `notes` is the file for the lateness of tasks. `kafka_client` is the client library for rebound. `settings` are
        further environment variables.
        """
        environment = {
            "BENCH_REDIS": url,
            "BENCH_APP": kind,
            "BENCH_EVENTS": str(int(events)),
            "BENCH_KAFKA": kafka,
            "BENCH_KAFKA_CLIENT": kafka_client or self.kafka_client or "",
            "BENCH_PREFETCH": str(prefetch),
            "BENCH_NOTES": str(notes or os.devnull),
            **(settings or {}),
        }
        arguments = ["-m", "celery", "-A", f"{__package__}.worker", "worker", "-l", "WARNING", *options]
        with Process(*arguments, env=environment) as worker:
            worker.wait_for_output(READY, timeout=60)
            yield worker
            # A warm stop takes seconds. Another measurement has it.
            worker.kill()

    def progress(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def delete_topic(brokers: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=brokers.split(","))
    try:
        admin.delete_topics([topic])
    finally:
        admin.close()
