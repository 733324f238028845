"""The names that one run uses in Kafka and Redis."""

from __future__ import annotations

from dataclasses import dataclass

#: Partitions of the topic that is consumed; the other two have one.
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Names:
    """Topics, group and queue of one run.

    Attributes:
        topic: where messages are produced, and redelivered.
        group: the consumer's.
        queue: Celery's, for rebound's tasks.
    """

    topic: str
    group: str
    queue: str

    @classmethod
    def for_run(cls, run: str, *, own_kafka: bool, own_redis: bool) -> Names:
        """Plain names on servers that this run has started; on shared ones names that nobody else uses."""
        topic = "orders" if own_kafka else f"orders-demo-{run}"
        queue = "rebound" if own_redis else f"rebound-demo-{run}"
        return cls(topic=topic, group=f"{topic}-consumer", queue=queue)

    @property
    def dead_letters(self) -> str:
        return f"{self.topic}-dlq"

    @property
    def results(self) -> str:
        """Where the handler writes down each of its calls."""
        return f"{self.topic}-handled"

    @property
    def topics(self) -> dict[str, int]:
        """All topics with their partitions."""
        return {self.topic: PARTITIONS, self.dead_letters: 1, self.results: 1}
