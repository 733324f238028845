"""Detects partitions that have a lag and bring no records, and makes kafka-python fetch them again, or reports them.

kafka-python 3.0.7 and 3.0.8 had such stalls. Their users saw only a growing lag.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from enum import Enum
from typing import Any

from kafka import KafkaConsumer
from kafka.errors import KafkaError

from ..clock import SYSTEM_CLOCK, Clock
from ..compat.kafka_python import positions

#: How long a partition may have a lag without bringing a record, in seconds. Each remedy has the same time to help.
STALL_TIMEOUT_S = 10.0

#: The time in milliseconds that the loop waits for Kafka to tell where the partitions end. A Kafka that does not answer
#: has no stalled partitions.
_TIMEOUT_MS = 2_000

#: How many remedies are tried before the consumer is reported as stalled.
_REMEDIES = 2
#: After how many further tries the KafkaConsumer is replaced again.
_REPLACE_EVERY = 6

logger = logging.getLogger(__name__)


class FetchState(Enum):
    """What a check found."""

    OK = "ok"
    #: The KafkaConsumer must be replaced by a new one, which forgets everything that kafka-python knows.
    REPLACE = "replace"
    #: No remedy helped.
    STALLED = "stalled"


class StallDetector:
    """Checks the positions of one consumer. It outlives the KafkaConsumer, which is replaced as a remedy."""

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        #: The position of each partition that had a lag in the last check, and since when it is there.
        self._behind: dict[Any, tuple[int, float]] = {}
        #: The positions of the partitions that the last remedy was for.
        self._stalled: dict[Any, int] = {}
        self._tried = 0

    @property
    def detail(self) -> str:
        """The partitions that no remedy helped, or the empty text."""
        return f"{_names(self._stalled)}: there is a lag, and no record comes" if self._stalled else ""

    def reset(self) -> None:
        """Start all times again, because the consumer could not fetch until now."""
        self._behind = {}

    def check(self, consumer: KafkaConsumer, exempt: Collection[Any]) -> FetchState:
        """Check once, and try the next remedy where one is needed; between two polls, in the loop's thread.

        Args:
            consumer: the consumer to check.
            exempt: partitions that need not bring records now: paused ones, and those with records in flight.
        """
        now = self._clock.monotonic()
        at, assigned = positions(consumer), consumer.assignment()
        if not assigned:
            # The consumer joins its group, or the group has more consumers than partitions.
            return FetchState.OK
        self._clear_if_helped(at, assigned)
        quiet = {partition: offset for partition, offset in at.items() if partition not in exempt}
        ends = _ends(consumer, quiet)
        # Tansu may tell an end that is too low, so that a stall is seen late. It never tells one that is too high.
        self._behind = {
            partition: (offset, self._since(partition, offset, now))
            for partition, offset in quiet.items()
            if ends.get(partition, 0) > offset
        }
        stalled = {p: offset for p, (offset, since) in self._behind.items() if now - since >= STALL_TIMEOUT_S}
        if stalled:
            return self._remedy(consumer, stalled, ends)
        return FetchState.STALLED if self._tried > _REMEDIES else FetchState.OK

    def _since(self, partition: Any, offset: int, now: float) -> float:
        before, since = self._behind.get(partition, (None, now))
        return since if before == offset else now

    def _clear_if_helped(self, at: Mapping[Any, int], assigned: Collection[Any]) -> None:
        # A partition without a position has not got one yet; one that is not assigned belongs to another consumer.
        left = {p: offset for p, offset in self._stalled.items() if p in assigned and at.get(p, offset) == offset}
        if self._stalled and not left:
            moved = {partition for partition in self._stalled if partition in assigned}
            if moved:
                logger.warning("records come again from %s", _names(moved), extra={"event": "fetch_back"})
            self._stalled, self._tried = {}, 0

    def _remedy(self, consumer: KafkaConsumer, stalled: Mapping[Any, int], ends: Mapping[Any, int]) -> FetchState:
        self._behind = {}
        self._stalled = dict(stalled)
        self._tried += 1
        lag = sum(ends[partition] - offset for partition, offset in stalled.items())
        what = f"{_names(stalled)}: there is a lag of {lag}, and no record came for {STALL_TIMEOUT_S * self._tried:g} s"
        fields = {"partitions": _names(stalled)}
        if self._tried == 1:
            logger.warning("%s; fetching starts again", what, extra={"event": "fetch_stalled", **fields})
            for partition, offset in stalled.items():
                consumer.seek(partition, offset)
        elif self._tried % _REPLACE_EVERY == _REMEDIES:
            logger.error("%s; the KafkaConsumer is replaced", what, extra={"event": "fetch_renewed", **fields})
            return FetchState.REPLACE
        elif self._tried == _REMEDIES + 1:
            logger.critical(
                "%s, and no remedy helps: restart this consumer", what, extra={"event": "fetch_dead", **fields}
            )
        return FetchState.STALLED if self._tried > _REMEDIES else FetchState.OK


def _ends(consumer: KafkaConsumer, partitions: Collection[Any]) -> dict[Any, int]:
    """Where the partitions end, as far as Kafka tells it in time."""
    if not partitions:
        return {}
    try:
        return dict(consumer.end_offsets(list(partitions), timeout_ms=_TIMEOUT_MS))
    except (KafkaError, KeyError, AttributeError) as error:
        # kafka-python raises the last two for a partition that Kafka does not know.
        logger.debug("Kafka does not tell where the partitions end: %r", error)
        return {}


def _names(partitions: Collection[tuple[str, int]]) -> str:
    return ", ".join(f"{topic}[{number}]" for topic, number in sorted(partitions))
