"""Creates topics of a Kafka broker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSettingError, UnreachableError
from .server import ServerError

#: Kafka's error code for a topic that exists.
_TOPIC_ALREADY_EXISTS = 36


def create_topics(
    brokers: str, topics: Mapping[str, int], timeout_s: float = 15.0, *, options: Mapping[str, Any] | None = None
) -> None:
    """Create topics and return when each of their partitions has a leader. Existing topics stay as they are.

    Args:
        brokers: `host:port` of a broker.
        topics: topic name -> number of partitions.
        timeout_s: the longest time of each request, in seconds.
        options: further options of kafka-python's KafkaAdminClient, such as those for SASL and TLS.

    Raises:
        InvalidSettingError: if a topic has less than one partition.
        UnreachableError: if no broker answers.
        ServerError: if the broker refuses a topic, or the topics are not ready in time.
    """
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError, for_code

    for name, count in topics.items():
        if count < 1:  # Tansu would accept it without an error
            raise InvalidSettingError(f"partitions of {name}", count, "at least 1")
    if not topics:
        return
    timeout_ms = int(timeout_s * 1000)
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=brokers,
            bootstrap_timeout_ms=timeout_ms,
            request_timeout_ms=timeout_ms,
            **(options or {}),
        )
    except KafkaError as error:
        raise UnreachableError("Kafka", brokers, error) from error
    try:
        # Replication factor -1 means the broker's own default, which is right for an existing cluster.
        wanted = {name: {"num_partitions": count, "replication_factor": -1} for name, count in topics.items()}
        answer = admin.create_topics(wanted, timeout_ms=timeout_ms, raise_errors=False)
        for topic in answer["topics"]:
            if topic["error_code"] not in (0, _TOPIC_ALREADY_EXISTS):
                reason = topic.get("error_message") or for_code(topic["error_code"]).__name__
                raise ServerError(f"topic {topic['name']!r} cannot be created: {reason}")
        admin.wait_for_topics(list(topics), timeout_ms=timeout_ms)
    except KafkaError as error:
        raise ServerError(f"topics {', '.join(topics)} are not ready on {brokers}: {error}") from error
    finally:
        admin.close()
