"""Checks the topics at the start, and logs the offset at which a new group begins."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import InvalidSettingError
from ..kafka_common import near_matches
from .config import ConsumerConfig

#: The time between two warnings that a pattern matches no topic, and the time before the first one, in seconds.
#: kafka-python must ask Kafka for the topics before the first one.
_WARN_EVERY_S = 60.0
_FIRST_WARNING_S = 2.0

#: How long the loop waits for the first and the end offsets of partitions, in milliseconds.
_TIMEOUT_MS = 2_000

logger = logging.getLogger(__name__)


def check_topics(consumer: KafkaConsumer, config: ConsumerConfig) -> None:
    """Check that the topics exist, unless the consumer may create them or reads by a pattern.

    Raises:
        InvalidSettingError: for a topic that does not exist, with the names of similar topics.
    """
    if config.allow_auto_create or isinstance(config.topics, re.Pattern):
        return
    present: set[str] = consumer.topics()
    for name in config.topic_names():
        if name in present:
            continue
        near = near_matches(name, present)
        raise InvalidSettingError(
            "retry_topic" if name == config.retry_topic else "topics",
            name,
            "Kafka has no such topic, or does not show it to this user"
            + (f"; it has {' and '.join(near)}" if near else "")
            + "; create it, or set allow_auto_create=True (--allow-auto-create of `celery rebound consume`)",
        )


class PatternWatch:
    """Warns at regular times while a pattern matches no topic."""

    def __init__(self, consumer: KafkaConsumer, config: ConsumerConfig, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._consumer = consumer
        self._pattern = config.topics.pattern if isinstance(config.topics, re.Pattern) else None
        self._retry_topic = config.retry_topic
        self._clock = clock
        self._next = clock.monotonic() + _FIRST_WARNING_S

    def warn_if_nothing_matches(self) -> None:
        """Warn if the time for it has come. Call this between two polls."""
        if self._pattern is None or self._clock.monotonic() < self._next:
            return
        self._next = self._clock.monotonic() + _WARN_EVERY_S
        matched: Collection[str] = self._consumer.subscription() or ()
        if set(matched) <= {self._retry_topic}:
            logger.warning(
                "the pattern %r matches no topic of Kafka; nothing is consumed until there is one",
                self._pattern,
                extra={"event": "no_topic_matches"},
            )


def report_start(consumer: KafkaConsumer, group: str, partitions: Sequence[TopicPartition]) -> None:
    """Log the start of a group in partitions in which it has committed nothing.

    The log line also counts the records before and after the start.
    """
    reset = consumer.config["auto_offset_reset"]
    if reset not in ("earliest", "latest"):
        return
    try:
        begins = consumer.beginning_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        ends = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
    except (KafkaError, KeyError, AttributeError) as error:
        # kafka-python raises KeyError or AttributeError for a partition that does not exist in Kafka.
        logger.debug("Kafka has not returned the first and the end offsets: %r", error)
        return
    count = sum(max(0, ends[partition] - begins[partition]) for partition in partitions)
    before, after = (count, 0) if reset == "latest" else (0, count)
    names = ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions))
    logger.log(
        # Records before the start are never consumed.
        logging.WARNING if before else logging.INFO,
        "the group %s has committed nothing in %s: it starts at the %s record (auto_offset_reset); "
        "%d records lie before the start and %d after it",
        group,
        names,
        "first" if reset == "earliest" else "next new",
        before,
        after,
        extra={"event": "group_start", "group": group, "partitions": names, "before": before, "after": after},
    )
