"""The names of the topics, the group and the queue of one run."""

from __future__ import annotations

from dataclasses import dataclass

#: Partitions of the topic that is consumed; the other two have one.
PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Names:
    """Topics, group and queue of one run.

    Attributes:
        topic: the topic of the messages and of their retries.
        group: the consumer's group.
        queue: the Celery queue of rebound's tasks.
    """

    topic: str
    group: str
    queue: str

    @classmethod
    def for_run(cls, run: str, *, own_kafka: bool, own_redis: bool) -> Names:
        """Choose plain names on servers that this run has started, and unique names on other servers."""
        topic = "orders" if own_kafka else f"orders-demo-{run}"
        queue = "rebound" if own_redis else f"rebound-demo-{run}"
        return cls(topic=topic, group=f"{topic}-consumer", queue=queue)

    @property
    def dead_letters(self) -> str:
        return f"{self.topic}-dlq"

    @property
    def results(self) -> str:
        """The topic in which the handler records each of its calls."""
        return f"{self.topic}-handled"

    @property
    def topics(self) -> dict[str, int]:
        """All topics with their partitions."""
        return {self.topic: PARTITIONS, self.dead_letters: 1, self.results: 1}
