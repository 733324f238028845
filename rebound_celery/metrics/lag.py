"""The lag of consumer groups: how many records of a topic they have not committed. A thread asks Kafka for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..clock import SYSTEM_CLOCK, Clock
from ..errors import InvalidSettingError

#: Seconds between two times that Kafka is asked. A scrape shows what was found last.
_EVERY_S = 15.0
#: What was found longer ago than so many seconds is not shown any more.
_KEPT_S = 120.0
_TIME_OUT_MS = 8_000

logger = logging.getLogger(__name__)


def read_lag_options(name: str, values: Sequence[str]) -> dict[str, list[str]]:
    """Read `GROUP:TOPIC[,TOPIC...]`, each a group and its topics.

    Raises:
        InvalidSettingError: if a value has another form.
    """
    topics_of: dict[str, list[str]] = {}
    for value in values:
        # A group's name may have a colon, a topic's may not.
        group, _, topics = value.rpartition(":")
        given = [topic.strip() for topic in topics.split(",") if topic.strip()]
        if not group or not given:
            raise InvalidSettingError(name, value, "give it as GROUP:TOPIC, or GROUP:TOPIC,TOPIC")
        known = topics_of.setdefault(group, [])
        known += [topic for topic in given if topic not in known]
    return topics_of


class ConsumerLag:
    """Asks Kafka again and again for the lag of consumer groups.

    Args:
        topics_of: group -> its topics.
        brokers: the brokers.
        options: further options of kafka-python's consumer, such as those of its security.
        clock: tells the time.
    """

    def __init__(
        self,
        topics_of: Mapping[str, Sequence[str]],
        brokers: Sequence[str],
        options: Mapping[str, Any],
        *,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._topics_of = topics_of
        self._options = {**options, "bootstrap_servers": list(brokers)}
        self._clock = clock
        self._found: dict[tuple[str, str, int], tuple[int, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rebound-lag", daemon=True)
        self._is_away: set[str] = set()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(_TIME_OUT_MS / 1000 + 1)

    def partitions(self) -> list[tuple[str, str, int, int]]:
        """Group, topic, partition and lag, as they were found last."""
        oldest = self._clock.monotonic() - _KEPT_S
        return [(*where, lag) for where, (lag, at) in sorted(self._found.items()) if at > oldest]

    def ask(self, group: str) -> None:
        """Ask Kafka for the lag of a group.

        Raises:
            kafka.errors.KafkaError: if Kafka does not answer, or refuses.
        """
        from kafka import KafkaConsumer, TopicPartition

        from ..compat.kafka_python import obey_auto_create

        # It never joins the group: it subscribes to nothing.
        consumer = KafkaConsumer(
            **{
                "request_timeout_ms": _TIME_OUT_MS,
                "session_timeout_ms": _TIME_OUT_MS // 2,
                "heartbeat_interval_ms": _TIME_OUT_MS // 6,
                "bootstrap_timeout_ms": _TIME_OUT_MS,
                "metrics_enabled": False,
                **self._options,
                "allow_auto_create_topics": False,
                "group_id": group,
                "enable_auto_commit": False,
            }
        )
        obey_auto_create(consumer)
        try:
            partitions = [
                TopicPartition(topic, partition)
                for topic in self._topics_of[group]
                for partition in consumer.partitions_for_topic(topic) or ()
            ]
            if not partitions:
                return
            ends, begins = consumer.end_offsets(partitions), consumer.beginning_offsets(partitions)
            for partition in partitions:
                committed = consumer.committed(partition)
                # A group that has committed nothing yet has all before it.
                behind = max(0, ends[partition] - (begins[partition] if committed is None else committed))
                where = group, partition.topic, partition.partition
                self._found = {**self._found, where: (behind, self._clock.monotonic())}
        finally:
            consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for group in self._topics_of:
                try:
                    self.ask(group)
                    self._is_away.discard(group)
                except Exception as error:  # noqa: BLE001 - the next time it may answer
                    if group not in self._is_away:
                        logger.warning(
                            "the lag of group %s is not known: %s", group, error, extra={"event": "lag_unknown"}
                        )
                    self._is_away.add(group)
            self._stop.wait(_EVERY_S)
