"""The bench: servers, workers, sizes, and the rows that come out."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from kafka import KafkaAdminClient

from rebound_celery.embedded import EmbeddedKafka, create_topics
from tests.kafka_server.apache import ApacheKafka
from tests.processes import Process
from tests.servers import local_redis

from .apps import READY
from .load import PARTITIONS


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table.

    Attributes:
        name: what `--only` calls it.
        value: the figure that the goal speaks of, in `unit`; `stock` is stock Celery's in the same run.
        ratio: `value` to `stock`.
        goal: the goal in words, and `met` whether this run met it.
        figures: what else was measured.
        size: with how much of what.
    """

    name: str
    value: float | None
    unit: str
    goal: str
    met: bool
    stock: float | None = None
    ratio: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    size: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class FastApacheKafka(ApacheKafka):
    """Apache Kafka with the compiler that the tests' broker leaves out to start sooner."""

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "_JAVA_OPTIONS": "-XX:TieredStopAtLevel=4"}


class Bench:
    """Starts what measurements need, and ends it with the context.

    Args:
        full: the sizes of the goals, in place of those that fit into two minutes.
        factor: every size is multiplied by it.
        kafka: the brokers to use; None starts one.
        apache: start Apache Kafka, not the embedded broker.
    """

    def __init__(self, *, full: bool = False, factor: float = 1.0, kafka: str | None = None, apache: bool = False):
        self.full = full
        self._factor = factor
        self._kafka = kafka
        self._is_foreign = kafka is not None
        self._kafka_server = FastApacheKafka if apache else EmbeddedKafka
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.directory = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="rebound-")))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @property
    def kafka(self) -> str:
        """The Kafka brokers; started when first asked for."""
        if self._kafka is None:
            self._kafka = self._open.enter_context(self._kafka_server()).address
        return self._kafka

    @property
    def rounds(self) -> int:
        """How often a rate is measured, for the median of it."""
        return 3 if self.full else 1

    def new_topic(self) -> str:
        """The name of a new topic; it goes with the bench, also from a broker that stays."""
        topic = f"delayed-delivery-{os.urandom(4).hex()}"
        create_topics(self.kafka, {topic: PARTITIONS})
        if self._is_foreign:
            self._open.callback(delete_topic, self.kafka, topic)
        return topic

    def count(self, short: int, full: int, least: int = 20) -> int:
        """How many of something this run takes."""
        return max(least, round((full if self.full else short) * self._factor))

    def seconds(self, short: float, full: float) -> float:
        """How long this run watches something."""
        return (full if self.full else short) * min(1.0, max(self._factor, 0.5))

    @contextlib.contextmanager
    def redis(self) -> Iterator[str]:
        """The URL of a Redis server of its own."""
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
        client: str = "",
        jobs: bool = False,
    ) -> Iterator[Process]:
        """A worker process of `make_app(url, kind, ...)`, ready.

        `notes` is the file that it notes lateness in, `client` the client library of the Kafka destination, and with
        `jobs` it logs the end of each job of deliveries.
        """
        environment = {
            "BENCH_REDIS": url,
            "BENCH_APP": kind,
            "BENCH_EVENTS": str(int(events)),
            "BENCH_KAFKA": kafka,
            "BENCH_PREFETCH": str(prefetch),
            "BENCH_NOTES": str(notes or os.devnull),
            "BENCH_JOBS": str(int(jobs)),
            **({"REBOUND_KAFKA_CLIENT": client} if client else {}),
        }
        arguments = ["-m", "celery", "-A", f"{__package__}.worker", "worker", "-l", "WARNING", *options]
        with Process(*arguments, env=environment) as worker:
            worker.wait_for_output(READY, timeout=60)
            yield worker
            # Stopping takes seconds, and is measured where it is the question.
            worker.kill()

    def progress(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def delete_topic(brokers: str, topic: str) -> None:
    admin = KafkaAdminClient(bootstrap_servers=brokers.split(","))
    try:
        admin.delete_topics([topic])
    finally:
        admin.close()
